"""MVTec LOCO AD, 5 categories with logical and structural anomalies.

Thresholds come from the publisher's validation images, all training images are learned from,
and pixels are scored at the size of the images, in which saturation areas are counted: P-sPRO5
is the publisher's figure. Not measured here: the data were not at hand.

  python -m memkd_jax.main --config=configs/mvtec_loco.py --workdir=runs/mvtec_loco
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  config = methods.get_config('mvtec_loco', method)
  config.train.calibration = 'validation'
  config.eval.resolution = 'original'
  return config
