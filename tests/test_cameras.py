"""A camera of 12 bits, from the training to every use of the model."""

import json

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax.run import run_config
from memkd_jax.workdir import Workdir

pytestmark = pytest.mark.newest


@pytest.fixture(scope='module')
def runs(tmp_path_factory, make_quick_config, make_category):
  """The same images in files of 8 bits, and of 12 bits in 16, with a run of each."""
  root = tmp_path_factory.mktemp('depth')
  make_category(root / 'eight', train=8, size=32)
  make_category(root / 'twelve', train=8, size=32)
  for path in (root / 'eight').glob('bolt/t*/*/*.png'):
    grey = np.array(Image.open(path).convert('L'))
    grey[0, 0] = 255
    Image.fromarray(grey).save(path)
    deep = np.round(grey * (4095 / 255)).astype(np.uint16)
    Image.fromarray(deep).save(root / 'twelve' / path.relative_to(root / 'eight'))
  results = {}
  for name in ('eight', 'twelve'):
    config = make_quick_config(root / name)
    results[name] = run_config(config, root / f'run_{name}')
  return root, results


def test_a_camera_of_12_bits_trains_the_model_that_8_bits_train(runs):
  root, results = runs
  eight, twelve = (Workdir(root / f'run_{name}').read_model('bolt', 0) for name in results)
  assert eight.train_sha256 == twelve.train_sha256
  assert (eight.config.data.bit_depth, twelve.config.data.bit_depth) == ('16', '12')
  assert results['eight']['categories'] == results['twelve']['categories']
  note = 'Images of 16 bits per channel were read as 12-bit values, 0 to 4095'
  assert note in ' '.join(results['twelve']['notes'])
  assert note not in ' '.join(results['eight']['notes'])
  written = json.loads((root / 'run_twelve' / 'bolt' / 'seed_0' / 'model.json').read_text())
  assert written['config']['data']['bit_depth'] == '12'


def test_it_is_used_wherever_the_model_is(runs, make_quick_config):
  root, results = runs
  files = {
    name: sorted((root / name / 'bolt' / 'test').rglob('*.png')) for name in ('eight', 'twelve')
  }
  eight = memkd_jax.load(root / 'run_eight')(files['eight'])
  twelve = memkd_jax.load(root / 'run_twelve')(files['twelve'])
  np.testing.assert_array_equal(eight.scores, twelve.scores)
  config = make_quick_config(root / 'twelve')
  again = run_config(config, root / 'run_twelve', 'evaluate')
  assert again['categories'] == results['twelve']['categories']
