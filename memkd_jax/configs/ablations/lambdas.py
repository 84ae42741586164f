"""The weights of L_NM and L_orth: each alone over its values, the other at its default.

  python -m memkd_jax.main --config=configs/ablations/lambdas.py --workdir=runs/lambdas \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = (
    ('lambda_1 = lambda_2 = 0.1', ()),
    *(
      (f'{symbol} = {value}', ((field, value),))
      for symbol, field in (('lambda_1', 'loss.lambda_nm'), ('lambda_2', 'loss.lambda_orth'))
      for value in (0.0, 0.01, 1.0)
    ),
  )
  return config
