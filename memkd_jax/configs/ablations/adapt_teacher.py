"""A trainable copy of the teacher, alone and with what it was proposed with.

  python -m memkd_jax.main --config=configs/ablations/adapt_teacher.py \\
      --workdir=runs/adapt_teacher --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  adapted = (('model.adapt_teacher', True),)
  config.sweep.variants = (
    ('frozen teacher', ()),
    ('adapted teacher', adapted),
    ('adapted teacher, hard mining', (*adapted, ('loss.hard_mining', True))),
    ('frozen teacher, hard mining', (('loss.hard_mining', True),)),
  )
  return config
