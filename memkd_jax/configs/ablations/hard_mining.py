"""Hard mining: which share of the positions is easy, and how little it then pulls.

  python -m memkd_jax.main --config=configs/ablations/hard_mining.py \\
      --workdir=runs/hard_mining --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = (
    ('all positions alike', ()),
    *(
      (
        f'easiest {share:.0%} x {factor:g}',
        (
          ('loss.hard_mining', True),
          ('loss.easy_share', share),
          ('loss.easy_factor', factor),
        ),
      )
      for share, factor in ((0.9, 0.1), (0.9, 0.0), (0.5, 0.1))
    ),
  )
  return config
