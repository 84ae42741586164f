"""The paper's Table 4: the teacher. Each needs its weights (docs/weights.md).

  python -m memkd_jax.main --config=configs/ablations/backbones.py --workdir=runs/backbones \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.paper = 'table4_backbones'
  config.sweep.variants = tuple(
    (backbone, (('model.backbone', backbone),))
    for backbone in ('resnet18', 'resnet34', 'resnet50', 'wide_resnet50_2')
  )
  return config
