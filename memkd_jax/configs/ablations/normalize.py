"""Maps as they are, or in spreads from the mean of held-out normal images.

All variants hold out the same tenth of the normal images, and learn from the others.

  python -m memkd_jax.main --config=configs/ablations/normalize.py --workdir=runs/normalize \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.train.holdout = 0.1
  config.sweep.variants = tuple(
    (f'normalised: {kind}', (('anomaly_map.normalize', kind),))
    for kind in ('none', 'stage', 'position')
  )
  return config
