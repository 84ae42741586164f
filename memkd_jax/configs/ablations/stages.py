"""The paper's Table 5: which stages are distilled.

  python -m memkd_jax.main --config=configs/ablations/stages.py --workdir=runs/stages \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.paper = 'table5_stages'
  config.sweep.variants = tuple(
    ('+'.join(map(str, stages)), (('model.stages', stages),))
    for stages in ((1, 2), (1, 3), (2, 3), (1, 2, 3))
  )
  return config
