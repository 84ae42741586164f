"""The page as a browser sees it."""

import devtools
import numpy as np
import pytest
from benchmark_layouts import LAYOUTS
from PIL import Image
from serving_client import serving
from whole_runs import tiny_of

import memkd_jax
from memkd_jax.run import run_config

pytestmark = [
  pytest.mark.slow,  # half a minute, most of it for training the tiny model
  pytest.mark.skipif(devtools.CHROMIUM is None, reason='needs a chromium binary'),
]
READY = 'document.getElementById("category").options.length === 2'
HOSTILE = '<img src=x onerror=console.error(1)>.png'


@pytest.fixture(scope='module')
def url(detectors):
  """Of a server in this process."""
  with serving(detectors) as address:
    yield address


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  with devtools.Browser(tmp_path_factory.mktemp('profile')) as browser:
    yield browser


@pytest.fixture
def page(browser, url):
  """The browser, at the page, with its models."""
  browser.events.clear()
  browser.show(url)
  browser.wait(READY)
  return browser


@pytest.fixture
def images(tmp_path):
  """Two pictures, one that browsers do not show, and one that is none."""
  paths = [tmp_path / name for name in ('a.png', 'b.jpg', 'c.tif', HOSTILE)]
  for i, path in enumerate(paths[:3]):
    pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  paths[3].write_bytes(b'hello')
  return paths


def finish(page, number):
  entries = f'document.querySelectorAll("#list li").length === {number}'
  page.wait(f'{entries} && !document.querySelector("#list [data-state=waiting]")')


def texts(page, selector):
  return page.value(f'[...document.querySelectorAll("{selector}")].map((e) => e.textContent)')


@pytest.mark.parametrize('how', ['choose', 'drop'])
def test_images_are_scored(page, url, images, how):
  if how == 'choose':
    page.choose('#files', *images)
  else:
    page.drop(*images)
  finish(page, 4)
  assert texts(page, '#list .title') == [path.name for path in reversed(images)]
  decisions = texts(page, '#list .word')
  assert decisions[0] == 'Not checked'
  assert set(decisions[1:]) <= {'Good', 'Reject'}
  assert 'is not a readable image' in texts(page, '#reason')[0]
  # All pictures are shown, that of the TIFF too.
  for entry in (1, 2, 3):
    page.value(f'document.querySelectorAll("#list li")[{entry}].click()')
    page.wait(
      '["picture", "heat"].map((id) => document.getElementById(id))'
      '.every((image) => image.complete && image.naturalWidth)'
    )
  # A refusal is all that the console speaks of.
  assert all('415' in complaint for complaint in page.complaints())
  assert all(asked.startswith((url, 'blob:', 'data:')) for asked in page.requests())
  page.value('document.getElementById("clear").click()')
  assert texts(page, '#list li') == []


def test_the_score_is_the_detectors(page, detectors, images):
  page.value('document.getElementById("category").value = "nut"')
  page.choose('#files', images[0])
  finish(page, 1)
  score = detectors['nut']([np.asarray(Image.open(images[0]))]).scores[0]
  # It is resized from the file as it would be from the array.
  assert texts(page, '#list .value') == [f'{score:.4f}']
  assert texts(page, '#facts dd')[-1] == 'nut'


def test_the_heat_map_fades(page, images):
  page.choose('#files', images[0])
  finish(page, 1)
  opacity = 'getComputedStyle(document.getElementById("heat")).opacity'
  assert page.value(opacity) == '1'
  page.value(
    'const range = document.getElementById("strength"); range.value = 30;'
    'range.dispatchEvent(new Event("input"))'
  )
  assert page.value(opacity) == '0.3'


def test_what_is_cleared_stays_away(page, images):
  page.value('window.asking = fetch; window.fetch = () => new Promise((go) => window.go = go)')
  page.choose('#files', images[0])
  page.wait('window.go !== undefined')
  page.value('document.getElementById("clear").click()')
  page.value('window.fetch = asking')
  page.value('window.go(new Response("{}", {status: 400}))')
  page.choose('#files', images[1])
  finish(page, 1)
  assert texts(page, '#summary')[0] in ('1 looked at, 0 rejected', '1 looked at, 1 rejected')


def test_pictures_keep_their_shape(page, tmp_path):
  tall = tmp_path / 'tall.png'
  Image.new('RGB', (30, 300)).save(tall)
  page.choose('#files', tall)
  finish(page, 1)
  box = 'document.getElementById("picture").getBoundingClientRect()'
  assert page.value(f'{box}.height / {box}.width') == pytest.approx(10, rel=0.01)
  assert page.value(f'{box}.height') < 500


def test_what_is_too_large_is_not_sent(page, tmp_path):
  large = tmp_path / 'large.png'
  large.write_bytes(bytes(100_001))
  page.choose('#files', large)
  finish(page, 1)
  assert 'more than the 100,000 bytes' in texts(page, '#reason')[0]
  assert not any('score' in url for url in page.requests())


def test_the_keyboard_reaches_everything(page, images):
  page.choose('#files', images[0])
  finish(page, 1)
  reached, outlines = [], []
  for _ in range(12):
    page.press('Tab', 9)
    outlines.append(
      page.value('getComputedStyle(document.getElementById("drop")).outlineStyle')
    )
    reached.append(
      page.value(
        'document.activeElement.id || document.activeElement.value ||'
        'document.activeElement.role || document.activeElement.textContent'
      )
    )
  assert reached == [
    *('category', 'help', 'files', 'picture', 'outline', 'heat', 'clear', 'option'),
    *('API', 'Metrics', 'Health'),
    reached[-1],
  ]
  # It shows where the keyboard is.
  assert outlines == ['solid' if name == 'files' else 'none' for name in reached]


@pytest.mark.parametrize('width', [320, 390, 1200])
def test_nothing_overflows(page, url, images, width):
  page.show(url, width)
  page.wait(READY)
  page.choose('#files', *images)
  finish(page, 4)
  assert page.value('document.documentElement.scrollWidth') == width
  page.show(url + 'docs', width)
  page.wait('document.querySelectorAll("section").length > 5')
  assert page.value('document.documentElement.scrollWidth') == width


def test_the_api_page_is_quiet(page, url):
  page.events.clear()
  page.show(url + 'docs')
  page.wait('document.querySelectorAll("section").length > 5')
  assert 'POST /api/score' in texts(page, 'h2')
  assert page.complaints() == []


@pytest.fixture(scope='module')
def objects(make_config, tmp_path_factory):
  """(a detector of photographs with depth and normals, objects in two publishers' files)."""
  root = tmp_path_factory.mktemp('objects')
  for name, category in (('mvtec_3d', 'bagel'), ('eyecandies', 'CandyCane')):
    LAYOUTS[name](root / name, (category,))
  config = tiny_of('knn', make_config(root / 'mvtec_3d'))
  config.data.dataset, config.data.categories = 'mvtec_3d', 'bagel'
  config.data.inputs, config.method.share = ('rgb', 'depth', 'normals'), 0.5
  config.train.holdout, config.train.calibration = 0.3, 'holdout'
  results = run_config(config, root / 'run')
  assert not results['failed'], results['failed']
  return memkd_jax.load(root / 'run'), root


def test_files_of_an_object_find_together(browser, objects):
  detector, root = objects
  test = root / 'mvtec_3d' / 'bagel' / 'test' / 'hole'
  with serving({'bagel': detector}) as address:
    browser.events.clear()
    browser.show(address)
    browser.wait('!document.getElementById("together").hidden')
    browser.choose('#files', test / 'rgb' / '000.png', test / 'rgb' / '001.png')
    assert texts(browser, '#list .word') == ['Waiting'] * 2
    assert texts(browser, '#reason') == ['Waiting for its point cloud.']
    browser.drop(test / 'xyz' / '001.tiff')
    browser.wait('document.querySelectorAll("#list [data-state=waiting]").length === 1')
    browser.drop(test / 'rgb' / '000.png')  # again, before its cloud
    browser.choose('#files', test / 'xyz' / '000.tiff')
    finish(browser, 3)
    files = {'rgb': test / 'rgb' / '000.png', 'xyz': test / 'xyz' / '000.tiff'}
    assert texts(browser, '#list .title') == ['000', '001', '000']
    assert texts(browser, '#list .value')[0] == f'{detector(files).scores[0]:.4f}'
    browser.value('document.querySelectorAll("#list li")[2].click()')
    assert 'Another 000.png came' in texts(browser, '#reason')[0]

    browser.value('document.getElementById("clear").click()')
    photograph = next((root / 'eyecandies').rglob('test*/**/*_image_0.png'))
    stem = photograph.name.removesuffix('_image_0.png')
    names = (f'{stem}_depth.png', f'{stem}_info_depth.yaml', f'{stem}_normals.png')
    browser.choose('#files', photograph)
    assert texts(browser, '#reason') == ['Waiting for its depth, range of depth, normals.']
    browser.drop(*(photograph.with_name(name) for name in names))
    finish(browser, 1)
    assert texts(browser, '#list .word') == ['Not judged']  # three held-out images tell no rate
    assert browser.complaints() == []
