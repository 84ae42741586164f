import pytest

from memkd_jax.data.listing import describe_left_out, is_predicted, list_images_below
from memkd_jax.errors import UserError


@pytest.fixture
def touch(tmp_path):
  def touch(*names):
    for name in names:
      path = tmp_path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(b'')

  return touch


def _names(images, root):
  return [str(p.relative_to(root)) for p in images]


def test_images_of_subfolders_are_read_after_those_of_their_folder(tmp_path, touch):
  touch('day2/c.png', 'day1/late/b.JPG', 'z.png', '.hidden.png', '.trash/a.png')
  images, left_out = list_images_below(tmp_path)
  assert _names(images, tmp_path) == ['z.png', 'day1/late/b.JPG', 'day2/c.png']
  assert left_out == []
  assert describe_left_out(left_out) == ''


def test_what_no_suffix_says_to_be_an_image_is_counted_and_named_once(tmp_path, touch):
  touch('a.png', 'b.heic', 'c.HEIC', 'd', *(f'{i}.raw' for i in range(5)))
  images, left_out = list_images_below(tmp_path)
  assert _names(images, tmp_path) == ['a.png']
  assert describe_left_out(left_out) == (
    f'Left out: 5 files with the suffix .raw ({tmp_path}/0.raw, {tmp_path}/1.raw, '
    f'{tmp_path}/2.raw, 2 more); 2 files with the suffix .heic ({tmp_path}/b.heic, '
    f'{tmp_path}/c.HEIC); 1 file without a suffix ({tmp_path}/d).'
  )


def test_linked_folders_are_read_once(tmp_path, touch):
  touch('in/a.png', 'in/sub/b.png', 'out/c.png', 'out/deep/d.png', 'in/.store/e.png')
  (tmp_path / 'in' / 'linked').symlink_to(tmp_path / 'out')
  (tmp_path / 'in' / 'same').symlink_to(tmp_path / 'in' / 'sub')
  (tmp_path / 'in' / 'store').symlink_to(tmp_path / 'in' / '.store')
  (tmp_path / 'out' / 'loop').symlink_to(tmp_path / 'out')
  (tmp_path / 'out' / 'up').symlink_to(tmp_path)
  images, left_out = list_images_below(tmp_path / 'in')
  assert _names(images, tmp_path / 'in') == [
    'a.png',
    'linked/c.png',
    'linked/deep/d.png',
    'store/e.png',
    'sub/b.png',
  ]
  assert _names((x.path for x in left_out), tmp_path / 'in') == [
    'linked/loop',
    'linked/up',
    'same',
  ]


def test_a_link_to_a_file_that_is_gone_is_not_left_out_silently(tmp_path):
  (tmp_path / 'a.png').symlink_to(tmp_path / 'gone.png')
  assert list_images_below(tmp_path)[0] == [tmp_path / 'a.png']


def test_results_of_predict_are_no_images(tmp_path, touch):
  touch('a.png', 'masks/b.png', 'results/heatmaps/a.png', 'results/masks/a.png')
  (tmp_path / 'results' / 'scores.csv').write_text('path,score,p_value\n')
  images, left_out = list_images_below(tmp_path)
  assert _names(images, tmp_path) == ['a.png', 'masks/b.png']
  assert [x.path for x in left_out] == [tmp_path / 'results']
  assert is_predicted(tmp_path / 'results' / 'heatmaps' / 'a.png')
  assert not is_predicted(tmp_path / 'masks' / 'b.png')


def test_names_that_cannot_be_printed_are_refused_unless_any_is_allowed(tmp_path, touch):
  touch('day\n1/a.png')
  with pytest.raises(UserError, match='cannot be printed'):
    list_images_below(tmp_path)
  images, _ = list_images_below(tmp_path, any_name=True)
  assert len(images) == 1


def test_a_folder_with_the_name_of_an_image_is_refused_unless_any_is_allowed(tmp_path, touch):
  touch('a.png/b.png')
  with pytest.raises(UserError, match=r'a\.png is a folder with the name of an image'):
    list_images_below(tmp_path)
  assert list_images_below(tmp_path, any_name=True)[0] == [tmp_path / 'a.png' / 'b.png']


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
  assert list_images_below(tmp_path / 'none') == ([], [])
