"""The two readings of L_KD, with memories and without.

  python -m memkd_jax.main --config=configs/ablations/kd.py --workdir=runs/kd \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'{kd}, {name}', (('loss.kd', kd), ('model.memories', memories)))
    for kd in ('global_cosine', 'local_cosine')
    for name, memories in (('MemKD', (1, 2, 3)), ('RD', ()))
  )
  return config
