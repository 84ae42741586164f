"""When the training ends: after all epochs, or where the loss on normal images levels.

  python -m memkd_jax.main --config=configs/ablations/stop.py --workdir=runs/stop \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = (
    ('200 epochs', ()),
    *(
      (f'patience {patience}', (('train.stop', 'plateau'), ('train.patience', patience)))
      for patience in (5, 10, 20)
    ),
  )
  return config
