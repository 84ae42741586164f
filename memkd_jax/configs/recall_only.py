"""MemKD whose stages see the recall alone (model.fusion='replace'), for any data set.

Chosen on textures, and better than the paper's fusion on magnetic tiles too: see
docs/trials.md. After the colon stands the data set, one of memkd_jax/data/datasets.py.

  python -m memkd_jax.main --config=configs/recall_only.py:mvtec_ad --workdir=runs/recall_only
"""

from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.configs.folder import OWN, for_own_images


def get_config(dataset: str = 'folder') -> ConfigDict:
  config = methods.get_config(dataset)
  config.model.fusion = 'replace'
  if dataset in OWN:
    backbone = config.model.backbone
    config = for_own_images(config)
    config.model.backbone = backbone
  return config
