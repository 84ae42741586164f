"""The operators' page in Chromium: what it says, its keys, and what axe-core finds."""

import dataclasses
import os
import re
import time

import devtools
import numpy as np
import pytest
from PIL import Image
from serving_client import serving

from memkd_jax.detector import Detector

WHY = "needs pip install -e '.[browser]'"
playwright = pytest.importorskip('playwright.sync_api', reason=WHY)
axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason=WHY)
pytestmark = [
  pytest.mark.slow,  # a minute
  pytest.mark.skipif(devtools.CHROMIUM is None, reason='needs a chromium binary'),
]
LOOKS = [(width, scheme) for width in (390, 1280) for scheme in ('light', 'dark')]
# Words of those who made the models, which mean nothing at the line.
JARGON = re.compile(
  r'M_\d|p-value|anomal|memory|memories|stage|held.out|calibrat|quantile', re.IGNORECASE
)


@pytest.fixture(scope='module')
def url(detectors):
  with serving(detectors) as address:
    yield address


@pytest.fixture(scope='module')
def chromium():
  # Chromium's sandbox does not start for root, which containers mostly are.
  arguments = ['--no-sandbox'] if hasattr(os, 'getuid') and os.getuid() == 0 else []
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=devtools.CHROMIUM, args=arguments)
    yield browser
    browser.close()


@pytest.fixture
def open_page(chromium):
  """`open_page(url, width, scheme, **options)` gives a page; its console must stay empty."""
  contexts, complaints = [], []

  def show(address, width=1280, scheme='light', **options):
    height = 844 if width < 500 else 900
    contexts.append(
      chromium.new_context(
        viewport={'width': width, 'height': height}, color_scheme=scheme, **options
      )
    )
    page = contexts[-1].new_page()
    page.on('console', lambda message: complaints.append(message.text))
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.goto(address)
    wait(page, 'document.getElementById("model").textContent')
    return page

  yield show
  for context in contexts:
    context.close()
  assert complaints == []


@pytest.fixture
def images(tmp_path):
  """Five pictures; a wide one among them."""
  paths = [tmp_path / f'{i}.png' for i in range(5)]
  for i, path in enumerate(paths):
    size = (30, 60, 3) if i == 2 else (32, 32, 3)
    Image.fromarray(np.random.default_rng(i).integers(0, 256, size, np.uint8)).save(path)
  return paths


def wait(page, expression, seconds=60):
  """`wait_for_function`, which the page's policy forbids, as it evaluates text in the page."""
  end = time.monotonic() + seconds
  while not page.evaluate(expression):
    assert time.monotonic() < end, f'{expression} stays false'
    page.wait_for_timeout(20)


def choose(page, paths):
  page.set_input_files('#files', paths)
  wait(
    page,
    f'document.querySelectorAll("#list li").length >= {min(100, len(paths))}'
    '&& !document.querySelector("#list [data-state=waiting]")',
  )


def titles(page):
  return page.locator('#list .title').all_text_contents()


def find_faults(page):
  """What axe-core complains of, in short."""
  found = axe.Axe().run(page).response['violations']
  return [(fault['id'], node['html']) for fault in found for node in fault['nodes']]


def overflows(page):
  return page.evaluate('document.documentElement.scrollWidth > innerWidth')


def test_the_newest_is_large_and_all_are_listed(open_page, url, images, detectors):
  page = open_page(url)
  choose(page, images)
  assert titles(page) == [path.name for path in reversed(images)]
  assert page.locator('#name').text_content() == images[-1].name
  result = detectors['bolt']([np.asarray(Image.open(path)) for path in images])
  words = ['Reject' if rejected else 'Good' for rejected in result.decisions]
  assert page.locator('#list .word').all_text_contents() == words[::-1]
  assert page.locator('#decision .word').text_content() == words[-1]
  rejected = int(result.decisions.sum())
  assert page.locator('#summary').text_content() == f'5 looked at, {rejected} rejected'
  wait(page, 'document.getElementById("announcement").textContent')
  assert f'{words[-1]}: {images[-1].name}' in page.locator('#announcement').text_content()
  # No colour alone: the signs differ as well.
  signs = page.locator('#list .sign').all_text_contents()
  assert len(set(zip(words[::-1], signs, strict=True))) == len(set(words)) == len(set(signs))


def test_arrows_go_through_the_list(open_page, url, images):
  page = open_page(url)
  choose(page, images)
  name = page.locator('#name')
  for key, expected in (
    *(('ArrowRight', '3.png'), ('ArrowRight', '2.png'), ('ArrowLeft', '3.png')),
    ('End', '3.png'),  # which is the browser's own, outside the list
  ):
    page.keyboard.press(key)
    assert name.text_content() == expected
  page.locator('#list [aria-selected=true]').focus()
  for key, expected in (
    *(('ArrowDown', '2.png'), ('End', '0.png'), ('ArrowDown', '0.png')),
    *(('ArrowUp', '1.png'), ('Home', '4.png')),
  ):
    page.keyboard.press(key)
    assert name.text_content() == expected
    assert expected in page.evaluate('document.activeElement.textContent')
  assert page.locator('#list [aria-selected=true]').count() == 1
  assert page.locator('#list [tabindex="0"]').count() == 1
  page.locator('#list li').nth(2).click()
  assert name.text_content() == '2.png'
  # Somebody looks at an older one, until there are new pictures.
  choose(page, images[:1])
  wait(page, 'document.getElementById("name").textContent === "0.png"')


def test_the_threshold_is_marked(open_page, url, images, detectors):
  page = open_page(url)
  choose(page, images)
  threshold = f'{detectors["bolt"].threshold.value:.4f}'
  assert page.locator('#gauge .mark').text_content() == f'threshold {threshold}'

  def middle(selector):
    box = page.locator(f'#gauge {selector}').bounding_box()
    return box['x'] + box['width'] / 2

  for i in range(len(images)):
    page.locator('#list li').nth(i).click()
    wait(page, '!document.getAnimations().length')
    assert middle('.tick') == pytest.approx(middle('.track'), abs=1)
    rejected = page.locator('#decision .word').text_content() == 'Reject'
    assert (middle('.dot') > middle('.tick')) == rejected
    told = page.locator('#gauge').get_attribute('aria-label')
    side = 'above' if rejected else 'not above'
    assert f', {side} the threshold of {threshold}' in told


def test_the_views_by_mouse_and_by_key(open_page, url, images):
  page = open_page(url)
  choose(page, images)
  rejects = page.locator('#list [data-state=reject]')
  rejects.first.click()
  lines, heat = page.locator('#lines'), page.locator('#heat')
  frame = page.locator('#frame').bounding_box()
  box = page.locator('#lines .line').bounding_box()
  assert lines.is_visible() and not heat.is_visible()
  assert re.fullmatch(r'(M[\d.,L]+Z)+', page.locator('#lines .line').get_attribute('d'))
  assert box['width'] > 5 and box['x'] >= frame['x'] - 5
  page.keyboard.press('3')
  assert heat.is_visible() and lines.is_visible() and page.locator('#legend').is_visible()
  page.get_by_role('button', name='Picture', exact=True).click()
  assert not heat.is_visible() and not lines.is_visible()
  pressed = page.locator('#views [aria-pressed=true]')
  assert pressed.all_text_contents() == ['Picture']
  page.keyboard.press('2')
  assert lines.is_visible() and not heat.is_visible()


def test_keys_are_listed_and_can_be_given_up(open_page, url, images):
  page = open_page(url)
  choosers = []
  page.on('filechooser', lambda chooser: choosers.append(chooser))
  page.keyboard.press('?')
  assert page.locator('#keys').is_visible()
  page.keyboard.press('Escape')
  assert not page.locator('#keys').is_visible()
  page.keyboard.press('o')
  end = time.monotonic() + 60
  while not choosers and time.monotonic() < end:
    page.wait_for_timeout(20)
  choosers[0].set_files(images)
  page.wait_for_selector('#list li:nth-child(5)')
  # A field keeps its keys.
  page.locator('#category').focus()
  page.keyboard.press('?')
  assert not page.locator('#keys').is_visible()
  page.locator('#help').click()
  page.locator('#single').uncheck()
  page.locator('#close').click()
  page.keyboard.press('?')
  assert not page.locator('#keys').is_visible()


def test_the_list_is_bounded(open_page, url, tmp_path):
  paths = [tmp_path / f'{i}.png' for i in range(104)]
  for path in paths:
    Image.new('RGB', (8, 8), 'gray').save(path)
  page = open_page(url)
  page.evaluate(
    'window.held = new Set();'
    'const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];'
    'URL.createObjectURL = (blob) => { const u = make(blob); held.add(u); return u; };'
    'URL.revokeObjectURL = (url) => { held.delete(url); revoke(url); };'
  )
  choose(page, paths)
  wait(page, 'document.querySelectorAll("#list li").length === 100')
  assert titles(page)[0] == '103.png' and titles(page)[-1] == '4.png'
  assert page.locator('#summary').text_content().startswith('104 looked at')
  assert page.evaluate('held.size') == 200  # a picture and a heat map each
  page.locator('#clear').click()
  assert page.evaluate('held.size') == 0
  assert not page.locator('#work').is_visible()
  assert page.evaluate('document.activeElement.id') == 'files'


def test_nothing_is_told_in_words_of_the_trade(open_page, url, images):
  page = open_page(url)
  choose(page, images)
  for key in '123?':
    page.keyboard.press(key)
    assert not JARGON.search(page.locator('body').inner_text())


@pytest.fixture(scope='module')
def undecided(detectors):
  """A detector without held-out images, and so without a threshold."""
  trained = dataclasses.replace(detectors['bolt'].trained, calibration=None)
  return Detector(trained, detectors['bolt'].program)


def test_a_model_that_does_not_decide(open_page, undecided, images):
  with serving({'bolt': undecided}) as address:
    page = open_page(address, bypass_csp=True)
    assert 'has no threshold' in page.locator('#model').text_content()
    assert page.locator('#undecided').is_visible()
    choose(page, images)
    assert set(page.locator('#list .word').all_text_contents()) == {'Not judged'}
    assert page.locator('#summary').text_content() == '5 looked at, 5 not judged'
    assert page.locator('#heat').is_visible()
    assert not page.locator('#gauge').is_visible()
    page.keyboard.press('2')
    assert 'No outlines' in page.locator('#caption').text_content()
    assert find_faults(page) == []


@pytest.mark.parametrize(('width', 'scheme'), LOOKS)
def test_axe_finds_no_fault(open_page, url, images, width, scheme):
  # The page's policy keeps axe itself out.
  page = open_page(url, width, scheme, bypass_csp=True, reduced_motion='reduce')
  assert find_faults(page) == []
  assert not overflows(page)
  choose(page, images)
  for key in '123':
    page.keyboard.press(key)
    assert find_faults(page) == []
    assert not overflows(page)
  page.keyboard.press('?')
  assert find_faults(page) == []
  assert not overflows(page)


@pytest.mark.parametrize(('width', 'scheme'), LOOKS)
def test_axe_finds_no_fault_in_the_api_page(open_page, url, width, scheme):
  page = open_page(url, width, scheme, bypass_csp=True)
  page.goto(url + 'docs')
  page.wait_for_selector('section:nth-of-type(5)')
  assert find_faults(page) == []
  assert not overflows(page)
