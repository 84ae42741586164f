"""What a finished student normalises with: running averages, or the training images' own.

  python -m memkd_jax.main --config=configs/ablations/norm_statistics.py \\
      --workdir=runs/norm_statistics --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (
      f'{paradigm}, {statistics}',
      (('model.paradigm', paradigm), ('train.norm_statistics', statistics)),
    )
    for paradigm in ('forward', 'reverse')
    for statistics in ('running', 'exact')
  )
  return config
