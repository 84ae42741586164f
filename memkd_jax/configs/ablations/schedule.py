"""The learning rate: constant, or a cosine with a rise before it; and half the epochs.

  python -m memkd_jax.main --config=configs/ablations/schedule.py --workdir=runs/schedule \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'{schedule}, {epochs} epochs', (('train.schedule', schedule), ('train.epochs', epochs)))
    for schedule in ('constant', 'cosine')
    for epochs in (200, 100)
  )
  return config
