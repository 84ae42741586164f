"""What L_orth drives apart: keys from keys and values from values, or keys from values.

  python -m memkd_jax.main --config=configs/ablations/orth.py --workdir=runs/orth \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'orthogonal {pairs}', (('loss.orth', pairs),)) for pairs in ('within', 'cross')
  )
  return config
