"""How many exemplars N teach the memories at a step, and when they are redrawn.

  python -m memkd_jax.main --config=configs/ablations/exemplars.py --workdir=runs/exemplars \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = (
    ('N = 16, redrawn at every step', ()),
    *((f'N = {number}', (('train.exemplars', number),)) for number in (4, 8, 32)),
    *(
      (f'redrawn: {when}', (('train.exemplar_resample', when),)) for when in ('epoch', 'never')
    ),
  )
  return config
