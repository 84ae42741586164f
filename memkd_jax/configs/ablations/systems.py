"""The four systems: both paradigms, with memories and without.

  python -m memkd_jax.main --config=configs/ablations/systems.py --workdir=runs/systems \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = (
    ('RD', (('model.memories', ()),)),
    ('MemKD', ()),
    ('forward, no memories', (('model.paradigm', 'forward'), ('model.memories', ()))),
    ('MemMKD', (('model.paradigm', 'forward'), ('model.memories', (1, 2)))),
  )
  return config
