import numpy as np
import pytest
from PIL import Image

from memkd_jax.data import demo_textures, folder
from memkd_jax.data.datasets import DATASETS, choose_categories, open_dataset
from memkd_jax.errors import UserError


def test_a_missing_root_says_where_to_get_the_data(tmp_path):
  with pytest.raises(UserError, match=r'gone.*mvtec\.com.*train/good.*--config\.data\.dir'):
    open_dataset('mvtec_ad', tmp_path / 'gone')


def test_categories(tmp_path, make_category):
  mvtec, own = DATASETS['mvtec_ad'], DATASETS['folder']
  assert len(choose_categories(mvtec, tmp_path, 'all')) == 15
  assert choose_categories(mvtec, tmp_path, 'tile, bottle,tile') == ['tile', 'bottle']
  with pytest.raises(UserError, match=r'battle; known are bottle, cable'):
    choose_categories(mvtec, tmp_path, 'bottle,battle')
  with pytest.raises(UserError, match='holds no category'):
    choose_categories(own, tmp_path, 'all')
  make_category(tmp_path, 'nut')
  assert choose_categories(own, tmp_path, 'all') == ['nut']
  with pytest.raises(UserError, match='known are nut'):
    choose_categories(own, tmp_path, '')


def test_the_demo_makes_a_whole_data_set(tmp_path):
  root = tmp_path / 'demo'
  dataset = open_dataset('demo', root)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['demo']  # nothing half-made beside it
  for category in choose_categories(dataset, root, 'all'):
    assert len(folder.list_samples(root, category, 'train')) == 48
    test = folder.list_samples(root, category, 'test')
    assert {s.defect for s in test} == {'good', *demo_textures.DEFECTS}
  again = tmp_path / 'again'
  demo_textures.prepare(again)
  files = [p.relative_to(root) for p in root.rglob('*.png')]
  assert all((root / f).read_bytes() == (again / f).read_bytes() for f in files)


@pytest.mark.parametrize('defect', demo_textures.DEFECTS)
def test_masks_of_painted_defects_are_exact(rng, defect):
  for _ in range(20):
    image = rng.integers(0, 256, (128, 128), dtype=np.uint8)
    painted, mask = demo_textures.paint(image, defect, rng)
    assert 0.002 < mask.mean() < 0.2
    np.testing.assert_array_equal(painted[~mask], image[~mask])
    assert (painted[mask] != image[mask]).mean() > 0.9


def test_train_and_test_crops_share_no_pixel(tmp_path, monkeypatch):
  """The texture is replaced by one whose values tell the row."""
  rows = np.repeat(np.arange(512, dtype=np.uint16)[:, None] // 2, 512, axis=1).astype(np.uint8)
  import skimage.data

  for name in demo_textures.CATEGORIES:
    monkeypatch.setattr(skimage.data, name, lambda: rows)
  demo_textures.prepare(tmp_path / 'demo')
  values = {
    split: [
      v
      for p in (tmp_path / 'demo').glob(f'*/{split}/good/*.png')
      for v in np.unique(np.asarray(Image.open(p)))
    ]
    for split in ('train', 'test')
  }
  assert max(values['train']) <= min(values['test'])
