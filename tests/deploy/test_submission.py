"""The archive for the server of MVTec AD 2, from a run on a miniature copy."""

import json
import shutil
import tarfile

import numpy as np
import pytest
import tifffile
from benchmark_layouts import LAYOUTS
from PIL import Image

import memkd_jax
from memkd_jax.commands import submission as command
from memkd_jax.data.framing import resize_map
from memkd_jax.deploy import submission
from memkd_jax.run import run_config

pytestmark = pytest.mark.newest

CATEGORIES = ('can', 'vial')


@pytest.fixture(scope='module')
def run(tmp_path_factory, make_quick_config):
  """(folder of the run, folder of the data)."""
  root = tmp_path_factory.mktemp('ad2')
  LAYOUTS['mvtec_ad_2'](root / 'data', CATEGORIES)
  config = make_quick_config(root / 'data')
  config.data.dataset, config.data.categories = 'mvtec_ad_2', ','.join(CATEGORIES)
  config.train.calibration = 'validation'
  config.eval.resolution = 'original'
  results = run_config(config, root / 'run')
  assert {'SegF1-3sd', 'P-PRO5'} <= results['mean'].keys()
  return root / 'run', root / 'data'


@pytest.fixture
def submit(run, tmp_path, monkeypatch):
  """Runs the command; the miniature copy has three images in each private test set."""
  monkeypatch.setattr(submission, 'EXPECTED', dict.fromkeys(CATEGORIES, 3))

  def submit(*flags, out=tmp_path / 'ours'):
    return command.main([f'--workdir={run[0]}', f'--data={run[1]}', f'--out={out}', *flags])

  return submit


def test_the_archive_is_what_the_server_takes(submit, run, tmp_path, capsys):
  assert submit() == 0
  path = tmp_path / 'ours.tar.gz'
  assert str(path) in capsys.readouterr().out
  with tarfile.open(path) as packed:
    names = packed.getnames()
    packed.extractall(tmp_path / 'unpacked', filter='data')
  expected = {
    f'ours/{kind}/{category}/{split}/{i:03}_{light}.{ending}'
    for kind, ending in (('anomaly_images', 'tiff'), ('anomaly_images_thresholded', 'png'))
    for category in CATEGORIES
    for split, light in (('test_private', 'regular'), ('test_private_mixed', 'mixed'))
    for i in range(3)
  }
  assert set(names) == expected and len(names) == len(expected)
  root = tmp_path / 'unpacked' / 'ours'
  for category in CATEGORIES:
    detector = memkd_jax.load(run[0], category)

    def map_of(path, detector=detector):
      with Image.open(path) as image:
        width, height = image.size
      return resize_map(detector(path).maps[0], height, width)

    validation = sorted((run[1] / category / 'validation' / 'good').iterdir())
    pixels = np.concatenate([map_of(path).ravel() for path in validation]).astype(np.float64)
    threshold = pixels.mean() + 3 * pixels.std()
    for path in sorted((run[1] / category / 'test_private').iterdir()):
      place = f'{category}/test_private/{path.stem}'
      map_ = tifffile.imread(root / 'anomaly_images' / f'{place}.tiff')
      decided = np.asarray(Image.open(root / 'anomaly_images_thresholded' / f'{place}.png'))
      assert (map_.dtype, map_.shape) == (np.float16, (40, 40))
      assert (decided.dtype, decided.shape) == (np.uint8, (40, 40))
      raw = map_of(path)
      np.testing.assert_array_equal(decided, np.where(raw > threshold, 255, 0))
      scale = 2.0 ** -np.floor(np.log2(threshold))
      np.testing.assert_allclose(map_, raw * scale, rtol=2e-3)


def test_what_is_done_is_left_alone(submit, run, tmp_path, capsys):
  out = tmp_path / 'ours'
  assert submit() == 0
  first = (tmp_path / 'ours.tar.gz').read_bytes()
  gone = out / 'anomaly_images' / 'can' / 'test_private' / '001_regular.tiff'
  kept = {p: p.stat().st_mtime_ns for p in out.rglob('*.tiff') if p != gone}
  gone.unlink()
  assert submit() == 0
  assert {p: p.stat().st_mtime_ns for p in out.rglob('*.tiff') if p != gone} == kept
  with tarfile.open(tmp_path / 'ours.tar.gz') as packed:
    assert len(packed.getnames()) == 24
  assert (tmp_path / 'ours.tar.gz').read_bytes() == first
  capsys.readouterr()
  assert submit('--threshold=calibrated') == 1
  assert 'can: 2 held-out images support no false-alarm rate of 10%' in capsys.readouterr().err


def test_maps_of_another_model_are_not_mixed(submit, tmp_path, capsys):
  assert submit() == 0
  record = tmp_path / 'ours.json'
  facts = json.loads(record.read_text())
  facts['vial']['model'] = 'another'
  record.write_text(json.dumps(facts))
  assert submit() == 1
  assert (
    'holds maps of vial by another model, other validation images or another'
    in capsys.readouterr().err
  )
  for content in ('{', '[]', '{"can": {}}'):
    record.write_text(content)
    assert submit() == 1
    assert f'{record} cannot be read (' in capsys.readouterr().err
  record.unlink()
  assert submit() == 1
  assert f'There is no {record}, which tells whose maps are in' in capsys.readouterr().err


def test_all_maps_of_a_category_have_one_threshold(submit, run, tmp_path, capsys, monkeypatch):
  """Also where validation images have changed since, or give another one on another device."""
  assert submit() == 0
  first = (tmp_path / 'ours.tar.gz').read_bytes()
  (tmp_path / 'ours' / 'anomaly_images' / 'can' / 'test_private' / '001_regular.tiff').unlink()
  # A killed process left this behind.
  (tmp_path / 'ours/anomaly_images/can/test_private/.memkd_jax-0123456789abcdef.tiff').touch()
  monkeypatch.setattr(submission, '_baseline', lambda *_: 0.1)
  assert submit() == 0
  assert (tmp_path / 'ours.tar.gz').read_bytes() == first
  data = tmp_path / 'data'
  shutil.copytree(run[1], data)
  (data / 'can/validation/good/001_regular.png').unlink()
  capsys.readouterr()
  assert command.main([f'--workdir={run[0]}', f'--data={data}', f'--out={tmp_path}/ours']) == 1
  assert (
    'holds maps of can by another model, other validation images' in capsys.readouterr().err
  )


def test_what_is_missing_is_named_and_not_packed(submit, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(submission, 'EXPECTED', {'can': 4, 'rice': 2, 'vial': 3})
  (tmp_path / 'ours' / 'anomaly_images' / 'vial' / 'test_private').mkdir(parents=True)
  (tmp_path / 'ours.json').write_text('{}')
  (tmp_path / 'ours' / 'anomaly_images' / 'vial' / 'test_private' / 'x.tiff').touch()
  assert submit() == 1
  said = capsys.readouterr().err
  assert (
    'can: 4 of 16 files are missing, anomaly_images/can/test_private/003_regular.tiff' in said
  )
  assert 'rice: 8 of 8 files are missing' in said
  assert 'vial: 1 file too many, anomaly_images/vial/test_private/x.tiff first.' in said
  assert not (tmp_path / 'ours.tar.gz').exists()


def test_a_run_of_something_else_is_refused(submit, capsys, monkeypatch):
  monkeypatch.setattr(submission, 'EXPECTED', {'rice': 3})
  assert submit() == 1
  assert 'holds no model of a category of MVTec AD 2; train them' in capsys.readouterr().err
