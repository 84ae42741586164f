"""Noise on what the student sees in training, by its kind and its size.

  python -m memkd_jax.main --config=configs/ablations/feature_noise.py \\
      --workdir=runs/feature_noise --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = (
    ('no noise', ()),
    *(
      (
        f'{kind} noise of {scale:g}',
        (('train.feature_noise', kind), ('train.noise_scale', scale)),
      )
      for kind in ('gaussian', 'simplex')
      for scale in (0.2, 1.0)
    ),
  )
  return config
