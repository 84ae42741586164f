"""MVTec AD 2, 8 categories: the public test set.

How the private ones are submitted: docs/benchmarks/mvtec_ad_2.md.

Thresholds come from the publisher's validation images, all training images are learned from,
and pixels are scored at the size of the images, as the benchmark's server does. Not measured
here: the data were not at hand.

  python -m memkd_jax.main --config=configs/mvtec_ad_2.py --workdir=runs/mvtec_ad_2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  config = methods.get_config('mvtec_ad_2', method)
  config.train.calibration = 'validation'
  config.eval.resolution = 'original'
  return config
