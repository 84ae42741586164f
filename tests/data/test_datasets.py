import numpy as np
import pytest
from PIL import Image

from memkd_jax.data.benchmarks import demo_textures
from memkd_jax.data.datasets import choose_categories, open_source
from memkd_jax.errors import UserError


def test_a_missing_root_says_where_to_get_the_data(tmp_path):
  with pytest.raises(UserError, match=r'gone.*mvtec\.com.*train/good.*--config\.data\.dir'):
    open_source('mvtec_ad', 'folder', str(tmp_path / 'gone'))
  (tmp_path / 'mpdd.tar.xz').write_bytes(b'')
  with pytest.raises(UserError, match=r'but an archive beside it: extract .*mpdd\.tar\.xz'):
    open_source('mpdd', 'folder', str(tmp_path / 'gone'))
  with pytest.raises(UserError, match=r'but a file: extract .*mpdd\.tar\.xz first'):
    open_source('mpdd', 'folder', str(tmp_path / 'mpdd.tar.xz'))


def test_categories(tmp_path, make_category):
  make_category(tmp_path, 'bottle')
  mvtec = open_source('mvtec_ad', 'folder', str(tmp_path))
  assert len(choose_categories(mvtec, 'all')) == 15
  assert choose_categories(mvtec, 'tile, bottle,tile') == ['tile', 'bottle']
  with pytest.raises(UserError, match=r'battle; known are bottle, cable'):
    choose_categories(mvtec, 'bottle,battle')
  own = open_source('folder', 'folder', str(tmp_path))
  assert choose_categories(own, 'all') == ['bottle']
  with pytest.raises(UserError, match='known are bottle'):
    choose_categories(own, '')


def test_the_place_of_the_data_is_found(tmp_path, make_category):
  make_category(tmp_path / 'all' / 'mvtec', 'bottle')

  def message(name, root):
    with pytest.raises(UserError) as error:
      open_source(name, 'folder', str(root))
    return str(error.value)

  mvtec = tmp_path / 'all' / 'mvtec'
  assert f'one level deeper: pass --config.data.dir={mvtec};' in message(
    'mvtec_ad', tmp_path / 'all'
  )
  assert f'one level deeper: pass --config.data.dir={mvtec};' in message(
    'folder', tmp_path / 'all'
  )
  assert f'is the category itself: pass --config.data.dir={mvtec};' in message(
    'mvtec_ad', mvtec / 'bottle'
  )
  assert f'is one itself: pass --config.data.dir={mvtec} --config.data.categories=bottle' in (
    message('folder', mvtec / 'bottle')
  )
  (tmp_path / 'empty').mkdir()
  assert 'There is no folder' in message('mvtec_3d', tmp_path / 'empty')
  assert 'holds no category; expected layout' in message('folder', tmp_path / 'empty')
  (tmp_path / 'empty' / 'bagel.tar.xz').write_bytes(b'')
  for name in ('mvtec_3d', 'folder'):
    assert f'an archive: extract {tmp_path}/empty/bagel.tar.xz first' in message(
      name, tmp_path / 'empty'
    )


def test_nothing_prepared_says_how_to(tmp_path):
  with pytest.raises(UserError, match=r'memkd prepare-tfds --dataset=visa --data=DATA --out='):
    open_source('visa', 'tfds', str(tmp_path))


def test_the_demo_makes_a_whole_data_set(tmp_path):
  root = tmp_path / 'demo'
  source = open_source('demo', 'folder', str(root))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['demo']  # nothing half-made beside it
  for category in choose_categories(source, 'all'):
    assert len(source.list_samples(category, 'train')) == 48
    test = source.list_samples(category, 'test')
    assert {s.defect for s in test} == {'good', *demo_textures.DEFECTS}
  again = tmp_path / 'again'
  demo_textures.prepare(again)
  files = [p.relative_to(root) for p in root.rglob('*.png')]
  assert all((root / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_two_runs_may_make_the_demo_at_once(tmp_path, monkeypatch):
  def write(folder, category, _):
    folder.mkdir(parents=True)
    (folder / 'a').write_text(category)
    (tmp_path / 'demo').mkdir(exist_ok=True)  # the other one was faster
    (tmp_path / 'demo' / 'a').write_text('of the other')

  monkeypatch.setattr(demo_textures, '_write_category', write)
  demo_textures.prepare(tmp_path / 'demo')
  assert [path.name for path in tmp_path.iterdir()] == ['demo']
  assert (tmp_path / 'demo' / 'a').read_text() == 'of the other'


@pytest.mark.parametrize('defect', demo_textures.DEFECTS)
def test_masks_of_painted_defects_are_exact(rng, defect):
  for _ in range(20):
    image, foreign = rng.integers(0, 256, (2, 128, 128), dtype=np.uint8)
    painted, mask = demo_textures.paint(image, defect, rng, foreign)
    assert 0.002 < mask.mean() < 0.2
    np.testing.assert_array_equal(painted[~mask], image[~mask])
    assert (painted[mask] != image[mask]).mean() > 0.9


@pytest.mark.parametrize('defect', sorted(set(demo_textures.DEFECTS) - {'scrape'}))
def test_spots_keep_their_grey_values(rng, defect):
  image, foreign = rng.integers(0, 256, (2, 128, 128), dtype=np.uint8)
  painted, mask = demo_textures.paint(image, defect, rng, foreign)
  np.testing.assert_array_equal(np.sort(painted[mask]), np.sort(image[mask]))


def test_a_foreign_spot_has_the_order_of_the_other_texture(rng):
  image = rng.integers(0, 256, (128, 128), dtype=np.uint8)
  foreign = np.add.outer(np.arange(128), np.zeros(128)).astype(np.uint8)
  painted, mask = demo_textures.paint(image, 'foreign', rng, foreign)
  rows = np.nonzero(mask)[0]
  values = painted.astype(int)
  highest = [values[row][mask[row]].max() for row in np.unique(rows)]
  lowest = [values[row][mask[row]].min() for row in np.unique(rows)]
  assert all(top <= bottom for top, bottom in zip(highest, lowest[1:], strict=False))


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
