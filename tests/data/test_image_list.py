import pytest
from PIL import Image

from memkd_jax.data import image_list
from memkd_jax.data.datasets import choose_categories, open_source
from memkd_jax.errors import UserError


@pytest.fixture
def images(tmp_path):
  """Four images, one in a subfolder, and a mask."""
  root = tmp_path / 'parts'
  for name in ('a.png', 'b.png', 'deep/c.png', 'd.png', 'd_mask.png'):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (8, 8)).save(root / name)
  return root


def ids(root, split):
  return [s.id for s in image_list.list_samples(root, 'parts', split)]


def test_all_images_of_a_folder_are_good(images):
  (images / 'notes.doc').write_bytes(b'')
  source = open_source('images', 'folder', str(images))
  assert choose_categories(source, 'all') == ['parts']
  samples = source.list_samples('parts', 'train')
  assert [s.id.removeprefix('train/good/') for s in samples] == [
    'a.png',
    'b.png',
    'd.png',
    'd_mask.png',
    'deep/c.png',
  ]
  assert source.list_samples('parts', 'test') == []
  (note,) = source.notes('parts')
  assert 'notes.doc' in note


@pytest.mark.parametrize(
  ('folder', 'name'),
  [('parts', 'parts'), ('parts/good', 'parts'), ('screw/Train/OK', 'screw'), ('good/x', 'x')],
)
def test_a_folder_of_good_images_is_named_by_what_is_above(tmp_path, folder, name):
  (tmp_path / folder).mkdir(parents=True)
  assert image_list.category_of(tmp_path / folder) == name


@pytest.mark.parametrize('name', ['bad', 'test', 'Ground_Truth', 'NG'])
def test_a_folder_that_holds_more_than_good_images_is_refused(images, name):
  (images / name).mkdir()
  with pytest.raises(UserError, match=rf'holds {name}, .*--good=FOLDER'):
    ids(images, 'train')


def test_a_text_file_lists_good_images(images):
  listing = images / 'list.txt'
  listing.write_text(f'# good ones\na.png\n\n{images / "deep" / "c.png"}\n', encoding='utf-8')
  assert ids(listing, 'train') == ['train/good/a.png', 'train/good/deep/c.png']
  assert ids(listing, 'test') == []
  assert image_list.category_of(listing) == 'list'


@pytest.mark.parametrize('delimiter', [',', ';', '\t'])
def test_a_table_says_what_is_what(images, delimiter):
  rows = [
    ('Path', 'label', 'mask', 'split'),
    ('a.png', 'good', '', ''),
    ('b.png', 'OK', '', 'test'),
    ('deep/c.png', '', '', 'train'),
    ('d.png', 'scratch', 'd_mask.png', ''),
    ('d_mask.png', '1', '', 'test'),
  ]
  table = images / 'parts.csv'
  text = '\r\n'.join(delimiter.join(row) for row in rows)
  table.write_text(text, encoding='utf-8-sig')
  assert ids(table, 'train') == ['train/good/a.png', 'train/good/deep/c.png']
  test = image_list.list_samples(table, 'parts', 'test')
  assert [(s.defect, s.label, s.mask is not None) for s in test] == [
    ('good', 0, False),
    ('scratch', 1, True),
    ('defective', 1, False),
  ]


def test_images_elsewhere_are_listed_by_their_path(images, tmp_path):
  table = tmp_path / 'lists' / 'parts.csv'
  table.parent.mkdir()
  table.write_text('path\n../parts/a.png\n', encoding='utf-8')
  assert ids(table, 'train') == ['train/good/parts/a.png']


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('l.txt', '', 'names no good image'),
    ('l.txt', 'a.png\na.png', 'names .*a.png twice'),
    ('l.txt', 'x.png\na.png', r'not there: .*x\.png; paths are relative to'),
    ('l.csv', 'file\na.png', 'no column path in its first line'),
    ('l.csv', 'path,path\na.png,b.png', 'path twice in its first line'),
    ('l.csv', 'path,split\na.png,valid', 'line 2: .*train or test'),
    ('l.csv', 'path,label\na.png,a/b', 'line 2: .*without slashes'),
    ('l.csv', 'path,label\na.png,bad', 'names no good image'),
    ('l.csv', b'path\n\xff\xff.png', 'not a list of images in UTF-8'),
    ('l.xlsx', 'path', r'no folder and no \.txt or \.csv'),
  ],
)
def test_what_is_wrong_with_a_list_is_said(images, name, content, message):
  listing = images / name
  listing.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=message):
    ids(listing, 'train')


def test_missing_files_are_counted(images):
  listing = images / 'list.txt'
  listing.write_text('\n'.join(f'{i}.png' for i in range(30)), encoding='utf-8')
  with pytest.raises(UserError, match=r'0\.png, .*9\.png and 20 more'):
    ids(listing, 'train')
