"""How many of the hardest positions of each image are added to the loss.

  python -m memkd_jax.main --config=configs/ablations/hardest.py --workdir=runs/hardest \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'hardest {number}', (('loss.hardest', number),)) for number in (0, 10, 50)
  )
  return config
