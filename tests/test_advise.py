"""memkd advise: what it prints can be run."""

import shlex

import numpy as np
import pytest
from PIL import Image

from memkd_jax import main
from memkd_jax.commands import advise


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
  """Runs it on images of some sizes; its exit code and what it printed."""
  monkeypatch.setattr(advise, '_measure', lambda backbone, size: (0.05, 2_000_000))

  def run_one(sizes, *flags):
    folder = tmp_path / 'parts' / 'good'
    folder.mkdir(parents=True)
    for i, (width, height) in enumerate(sizes):
      Image.fromarray(np.full((height, width), i, np.uint8)).save(folder / f'{i}.png')
    code = advise.main([f'--good={folder}', *flags])
    return code, capsys.readouterr()

  return run_one


def test_the_command_that_it_prints_is_one(run):
  code, printed = run([(2048, 1536), (2048, 1000)], '--defect=6')
  assert code == 0
  *said, command = printed.out.splitlines()
  assert said[0] == '2 images: 2048 x 1000, 2048 x 1536 pixels (width x height).'
  assert 'tiles for 40 epochs with resnet18: about' in said[-1]
  memkd, train, good, workdir, *fields = shlex.split(command)
  assert (memkd, train, workdir) == ('memkd', 'train', '--workdir=runs/parts')
  assert good.startswith('--good=')
  assert main.load_config('best', fields).data.tile_size == 192


def test_masks_tell_how_small_defects_are(run, tmp_path):
  mask = np.zeros((1536, 2048), np.uint8)
  mask[100:112, 50:90] = 255
  (tmp_path / 'masks').mkdir()
  Image.fromarray(mask).save(tmp_path / 'masks' / 'a.png')
  code, printed = run([(2048, 1536)], f'--masks={tmp_path / "masks"}')
  assert code == 0
  assert '1 mask: nearly all regions are 12 pixels wide or more.' in printed.out
  assert '--config.data.tile_size=384' in printed.out


def test_what_cannot_be_advised_on(run, tmp_path, capsys):
  (tmp_path / 'masks').mkdir()
  Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / 'masks' / 'a.png')
  code, printed = run([(64, 64)], f'--masks={tmp_path / "masks"}')
  assert (code, 'no mask in which anything is marked' in printed.err) == (1, True)
  (tmp_path / 'parts' / 'good' / '0.png').write_bytes(b'no image')
  assert advise.main([f'--good={tmp_path / "parts"}']) == 1
  assert 'none of 1 image can be read; replace them.' in capsys.readouterr().err
  assert advise.main([f'--good={tmp_path / "absent"}']) == 1
  for wrong in ('0', 'inf', 'x'):
    with pytest.raises(SystemExit):
      advise.main([f'--good={tmp_path}', f'--defect={wrong}'])


def test_a_teacher_is_measured():
  seconds, size = advise._measure('tiny_basic', (32, 64))
  assert 0 < seconds < 10
  assert size > 1000
