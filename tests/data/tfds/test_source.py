"""TFDS gives the arrays of the folder reader, bit for bit, and says what is wrong."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memkd_jax.data import folder
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.data.splits import load_split
from memkd_jax.data.tfds import builder
from memkd_jax.data.tfds.builder import prepare
from memkd_jax.data.tfds.source import list_categories, list_samples
from memkd_jax.errors import UserError


@pytest.fixture
def root(tmp_path, make_category, rng):
  """A category whose images have several formats and modes, and palette masks."""
  category = make_category(tmp_path / 'data', good=2, bad=4)
  pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
  wide = pixels[..., 0].astype(np.uint16) * 255
  train, test = category / 'train' / 'good', category / 'test' / 'good'
  Image.fromarray(pixels).save(train / 'a.jpg')
  Image.fromarray(pixels).save(train / 'b.bmp')
  Image.fromarray(pixels).quantize(16).save(train / 'c.png')
  Image.fromarray(pixels[..., 0]).save(train / 'd.png')
  Image.fromarray(wide).save(test / 'e.png')
  Image.fromarray(pixels).convert('CMYK').save(test / 'f.tiff')
  mask = category / 'ground_truth' / 'hole' / '001_mask.png'
  palette = Image.fromarray((np.asarray(Image.open(mask)) > 0).astype(np.uint8) * 3)
  palette.putpalette([9, 9, 9, 0, 0, 0])
  palette.save(mask)
  return tmp_path / 'data'


@pytest.fixture
def out(tmp_path):
  return str(tmp_path / 'tfds')


def prepared_files(out):
  return {p: p.stat().st_mtime_ns for p in Path(out).rglob('*') if p.is_file()}


def assert_equal(root, out, threads=4):
  for split in ('train', 'test'):
    expected = load_split(folder.list_samples(root, 'bolt', split), (16, 16), threads)
    given = load_split(list_samples(out, 'folder', 'bolt', split), (16, 16), threads)
    assert given.ids == expected.ids
    assert [s.defect for s in given.samples] == [s.defect for s in expected.samples]
    for name in ('images', 'labels', 'sizes', 'masks'):
      np.testing.assert_array_equal(getattr(given, name), getattr(expected, name), name)


def test_equals_the_folder_reader(root, out):
  prepare('folder', 'bolt', root, out)
  assert_equal(root, out)
  assert [p.name for p in Path(out).iterdir()] == ['folder']
  assert list_categories(out, 'folder') == ['bolt']
  assert list_categories(out, 'mvtec_ad') == []


def test_without_masks(tmp_path, make_category, out):
  make_category(tmp_path / 'data', masks=False)
  prepare('folder', 'bolt', tmp_path / 'data', out)
  assert_equal(tmp_path / 'data', out)


def test_many_threads_read_one_list(tmp_path, make_category, out):
  make_category(tmp_path / 'data', train=200, good=1, bad=1, size=8)
  prepare('folder', 'bolt', tmp_path / 'data', out)
  assert_equal(tmp_path / 'data', out, threads=32)


def test_others_read_it_with_plain_tfds(root, out):
  import tensorflow_datasets as tfds

  prepare('folder', 'bolt', root, out)
  builder = tfds.builder_from_directory(Path(out) / 'folder' / 'bolt' / '1.0.0')
  *_, example = builder.as_data_source('test')
  assert builder.info.splits['train'].num_examples == 14
  assert (example['id'], example['defect']) == (b'test/hole/003.png', b'hole')
  assert example['label'] == 1
  expected = root / 'bolt' / 'test' / 'hole' / '003.png'
  np.testing.assert_array_equal(example['image'], np.asarray(Image.open(expected)))
  assert [m.shape for m in example['masks']] == [(32, 32, 1)]


def test_what_is_prepared_is_left_alone(root, out):
  prepare('folder', 'bolt', root, out)
  files = prepared_files(out)
  shutil.rmtree(root)
  prepare('folder', 'bolt', root, out)
  assert prepared_files(out) == files


def test_images_that_changed_since_are_noticed(root, out):
  prepare('folder', 'bolt', root, out)
  shutil.copy(
    root / 'bolt' / 'train' / 'good' / '000.png', root / 'bolt' / 'train' / 'good' / 'x.png'
  )
  with pytest.raises(
    UserError, match=r'of train, 1 is new \(train/good/x\.png\); remove'
  ) as error:
    prepare('folder', 'bolt', root, out)
  shutil.rmtree(str(error.value).split(' holds ')[0])  # the remedy
  prepare('folder', 'bolt', root, out)
  assert_equal(root, out)


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_nothing_that_seems_finished(root, out, monkeypatch, error):
  def read(source, read=builder._read):
    if source.name == '002.png' and 'hole' in str(source):
      raise error
    return read(source)

  with monkeypatch.context() as patch:
    patch.setattr(builder, '_read', read)
    with pytest.raises(error):
      prepare('folder', 'bolt', root, out)
  assert list_categories(out, 'folder') == []
  assert prepared_files(out) == {}
  killed = Path(out) / 'folder' / 'bolt' / 'incomplete.ABCDEF_1.0.0'
  killed.mkdir()
  (killed / 'folder-train.array_record-00000-of-00001').write_bytes(b'half')
  assert list_categories(out, 'folder') == []
  prepare('folder', 'bolt', root, out)
  assert not killed.exists()
  assert_equal(root, out)


def test_no_room(root, out):
  """A file-size limit stands for a full disk."""
  script = f"""
import resource, signal, pathlib
from memkd_jax.data.tfds.builder import prepare
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
prepare('folder', 'bolt', pathlib.Path({str(root)!r}), {out!r})
"""
  result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
  assert 'folder/bolt/1.0.0 cannot be written (write() failed: File' in result.stderr
  assert prepared_files(out) == {}
  prepare('folder', 'bolt', root, out)
  assert_equal(root, out)


def test_a_directory_that_cannot_be_written(root, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match=r'file/folder/bolt/1\.0\.0 cannot be written \(.*Not a'):
    prepare('folder', 'bolt', root, str(tmp_path / 'file'))


def test_a_source_image_that_went_missing(root, out, monkeypatch):
  samples = folder.list_samples(root, 'bolt', 'train')
  samples[1] = Sample('x', {'rgb': root / 'gone.png'}, None, 'good')
  dataset = Dataset(None, '', '', lambda *_: samples)
  monkeypatch.setitem(builder.DATASETS, 'folder', dataset)
  with pytest.raises(UserError, match=r'^\S*gone\.png cannot be read \(No such file'):
    prepare('folder', 'bolt', root, out)
  assert prepared_files(out) == {}


def test_not_prepared(out):
  command = 'memkd prepare-tfds --dataset=folder --data=DATA .*--categories=bolt'
  with pytest.raises(UserError, match=rf'There is no .*folder/bolt/1\.0\.0; .*{command}'):
    list_samples(out, 'folder', 'bolt', 'train')


@pytest.mark.parametrize(
  'name', ['dataset_info.json', 'features.json', 'metadata.json', 'folder-test.array_record']
)
@pytest.mark.parametrize('size', [None, 0, 1, -1])
def test_damage(root, out, tmp_path, name, size):
  prepare('folder', 'bolt', root, out)
  (path,) = Path(out).rglob(f'{name}*')
  if size is None:
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:size])
  message = r'folder/bolt/1\.0\.0 are damaged .*; remove that .*memkd prepare-tfds --dataset'
  with pytest.raises(UserError, match=message):
    load_split(list_samples(out, 'folder', 'bolt', 'test'), (16, 16), 2)
  if name.endswith('.json'):
    with pytest.raises(UserError, match=message):
      prepare('folder', 'bolt', root, out)


def test_lists_that_do_not_fit_the_records(root, out):
  prepare('folder', 'bolt', root, out)
  (path,) = Path(out).rglob('metadata.json')
  path.write_text('{"train": [], "test": [["x", "good"]]}')
  with pytest.raises(UserError, match='0 samples are listed but 14 are stored'):
    list_samples(out, 'folder', 'bolt', 'train')


def test_broken_images_are_named(root, out):
  (root / 'bolt' / 'test' / 'good' / '001.png').write_bytes(b'broken')
  Image.new('L', (32, 31)).save(root / 'bolt' / 'ground_truth' / 'hole' / '002_mask.png')
  prepare('folder', 'bolt', root, out)
  samples = list_samples(out, 'folder', 'bolt', 'test')
  path = r'\S*/folder/bolt/1\.0\.0'
  with pytest.raises(
    UserError, match=rf'^test/good/001\.png \(test record 1 of {path}\) is not a readable image'
  ):
    load_split(samples[:4], (16, 16), 2)
  with pytest.raises(
    UserError, match=r'^mask of test/hole/002\.png \(.*\) is 32x31 .* its image test/hole/002'
  ):
    load_split(samples[4:], (16, 16), 2)


def test_tool_without_tensorflow_or_noise(root, out):
  def run(*flags):
    script = (
      'import runpy, sys, atexit\n'
      'def check(): assert "tensorflow" not in sys.modules, "tensorflow"\n'
      'atexit.register(check)\n'
      'sys.argv = sys.argv[1:]\n'
      'runpy.run_path(sys.argv[0], run_name="__main__")\n'
    )
    tool = str(Path(__file__).parents[3] / 'tools' / 'prepare_tfds.py')
    return subprocess.run(
      [sys.executable, '-c', script, tool, '--dataset=folder', f'--out={out}', *flags],
      capture_output=True,
      text=True,
    )

  result = run(f'--data={root}')
  assert result.returncode == 0, result.stderr
  assert result.stdout == f'{out}/folder/bolt/1.0.0\n'
  bars = result.stderr.replace('\r', '\n').split('\n')
  assert {bar.split(':')[0].strip() for bar in bars} == {'', 'preparing bolt'}
  assert_equal(root, out)
  result = run(f'--data={root}/gone')
  assert (result.returncode, result.stdout) == (1, '')
  assert result.stderr.startswith(
    f'prepare-tfds: There is no data folder {root}/gone. Put your'
  )
  assert result.stderr.count('\n') == 1


def test_nothing_slow_is_imported_for_the_folder_path():
  script = (
    'import sys\n'
    'import memkd_jax.data.datasets, memkd_jax.data.tfds.source\n'
    'assert not {"tensorflow", "tensorflow_datasets", "array_record"} & set(sys.modules)\n'
  )
  subprocess.run([sys.executable, '-c', script], check=True)


@pytest.mark.skipif(importlib.util.find_spec('gcsfs') is not None, reason='gcsfs is installed')
def test_a_bucket_without_its_library_says_what_to_install():
  for call in (list_categories, lambda *a: list_samples(*a, 'bolt', 'train')):
    with pytest.raises(UserError, match=r'gs://.* cannot be opened: .*gcsfs'):
      call('gs://bucket/x', 'folder')


def test_encoded_bytes_are_untouched(root, out):
  prepare('folder', 'bolt', root, out)
  expected = folder.list_samples(root, 'bolt', 'test')
  for given, source in zip(list_samples(out, 'folder', 'bolt', 'test'), expected, strict=True):
    assert given.image.open('rb').read() == source.image.read_bytes()
