"""The paper's Table 6: which memories there are; without any the model is RD.

  python -m memkd_jax.main --config=configs/ablations/memories.py --workdir=runs/memories \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.paper = 'table6_memories'
  config.sweep.variants = tuple(
    ('+'.join(map(str, memories)) or 'none', (('model.memories', memories),))
    for memories in ((2, 3), (1, 3), (1, 2), (1, 2, 3), ())
  )
  return config
