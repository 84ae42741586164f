"""What finds most here, for any data set: a distilled student and the neighbours in a coreset.

MemKD with hard mining and noise on what its student sees, in small batches, and a bounded
PatchCore: see methods/ensemble.py. Chosen on textures, solar cells and a cable gland, then
looked at on bottles and magnetic tiles: docs/results.md tells how, docs/trials.md lists every
trial. After the colon stands the data set, one of memkd_jax/data/datasets.py.

  python -m memkd_jax.main --config=configs/best.py:mvtec_ad --workdir=runs/best
"""

from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.configs.folder import OWN, for_own_images


def get_config(dataset: str = 'folder') -> ConfigDict:
  config = methods.get_config(dataset, 'ensemble')
  config.loss.hard_mining = True
  config.train.feature_noise = 'simplex'
  config.train.batch_size = 8  # twice as many steps of the same cost as with 16
  config.anomaly_map.image_score = 'top'
  return for_own_images(config) if dataset in OWN else config
