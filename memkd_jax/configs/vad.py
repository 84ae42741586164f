"""VAD, the Valeo Anomaly Dataset: one part, labels of images without masks.

Its defective training images are left out. The paper has no figures for it, and none
were measured here: the data were not at hand.

  python -m memkd_jax.main --config=configs/vad.py --workdir=runs/vad
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('vad', method)
