"""One's own objects with point clouds, in the layout of MVTec 3D-AD."""

from pathlib import Path

from memkd_jax.data.benchmarks import mvtec_3d
from memkd_jax.data.listing import list_folders
from memkd_jax.data.sample import Dataset


def list_categories(root: Path) -> list[str]:
  """The folders with photographs to learn from, sorted."""
  return [f.name for f in list_folders(root) if (f / 'train' / 'good' / 'rgb').is_dir()]


DATASET = Dataset(
  None,
  'Put photographs of good objects into DIR/<category>/train/good/rgb, and their point clouds '
  'into DIR/<category>/train/good/xyz',
  mvtec_3d.LAYOUT.replace('train,validation,test', 'train,test'),
  mvtec_3d.list_samples,
  options=('inputs',),
  list_categories=lambda root, **options: list_categories(root),
)
