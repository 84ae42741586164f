"""One's own objects with point clouds, in the layout of MVTec 3D-AD.

  DIR/<category>/train/good/{rgb/<id>.png,xyz/<id>.tiff}
  DIR/<category>/test/{good,<defect>}/{rgb/<id>.png,xyz/<id>.tiff,gt/<id>.png}

Photographs and the surface's normals are looked at; gt/ may be missing. Held out and trained
as with configs/folder.py.

  python -m memkd_jax.main --config=configs/folder_3d.py --workdir=runs/mine \\
      --config.data.dir=DIR
"""

from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.configs.folder import for_own_images


def get_config(method: str = 'memkd') -> ConfigDict:
  return for_own_images(methods.get_config('folder_3d', method))
