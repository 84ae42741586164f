"""An image's score: its map's highest value, or the mean of its highest hundredth.

  python -m memkd_jax.main --config=configs/ablations/image_score.py \\
      --workdir=runs/image_score --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'image score: {score}', (('anomaly_map.image_score', score),)) for score in ('max', 'top')
  )
  return config
