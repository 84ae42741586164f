"""The site of docs/: built without a warning or a network, with all that is public."""

import html
import os
import re
import subprocess
import sys

import pytest
from devtools import CHROMIUM, Browser
from documented import PAGES, ROOT

import memkd_jax
from memkd_jax import methods, metrics
from memkd_jax.__main__ import COMMANDS

for _name in ('sphinx', 'myst_parser', 'furo'):
  pytest.importorskip(_name, reason=f"needs {_name}: pip install -e '.[docs]'")

DOCS = ROOT / 'docs'
# With tables, long flags, blocks of code, pictures, or what is made here.
WIDE = (
  'index',
  'architecture',
  'contributing',
  'large_images',
  'reliability',
  'running',
  'tpu',
  'trials',
  'reference/commands',
  'reference/config',
  'reference/memkd_jax',
)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """Where the site is; sockets are refused while it is built."""
  folder = tmp_path_factory.mktemp('site')
  guard = folder / 'guard'
  guard.mkdir()
  (guard / 'sitecustomize.py').write_text(
    'import sys\n'
    'def hook(event, args):\n'
    "  if event in ('socket.connect', 'socket.getaddrinfo'): raise OSError('no network')\n"
    'sys.addaudithook(hook)\n'
  )
  out = folder / 'html'
  command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-d', folder / 'trees']
  result = subprocess.run(
    [*command, DOCS, out],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': f'{guard}:{os.environ.get("PYTHONPATH", "")}'},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return out


def words(page):
  return html.unescape(re.sub(r'<[^>]+>', '', page.read_text()))


def test_every_page_is_there(site):
  sources = [page for page in PAGES if DOCS in page.parents]
  pages = [page.relative_to(DOCS).with_suffix('.html') for page in sources]
  assert len(pages) > 40
  for page in pages:
    assert (site / page).is_file(), page
  assert f'memkd_jax {memkd_jax.__version__}' in words(site / 'index.html')


def test_public_names_are_described(site):
  front = (site / 'reference' / 'memkd_jax.html').read_text()
  for name in memkd_jax.__all__:
    assert f'id="memkd_jax.{name}"' in front, name
  page = (site / 'reference' / 'metrics.html').read_text()
  for name in metrics.__all__:
    assert f'id="memkd_jax.metrics.{name}"' in page, name


def test_every_field_and_command_is_described(site):
  page = words(site / 'reference' / 'config.html')
  for method in methods.METHODS:
    for field in methods.fields(method):
      assert not field.help or f'--config.{field.name}=' in page, field.name
  page = words(site / 'reference' / 'commands.html')
  for name, command in COMMANDS.items():
    assert f'memkd {name}' in page
    assert command.help[1:] in page
  for flag in ('--good=FOLDER|FILE', '--compile-only[=TOPOLOGY]', '--no-force', '--host='):
    assert flag in page, flag


def test_a_returned_value_is_no_type(site):
  """As napoleon takes what stands before a colon for one."""
  page = words(site / 'reference' / 'metrics.html')
  assert '(fpr [K], pro [K]) float64, both non-decreasing from (0, 0) to (1, 1): the' in page
  assert ' -- ' not in page


def test_the_rooms_are_rows(site):
  """Those that do not know each other stand on one."""
  page = (site / 'architecture.html').read_text()
  plan = page[page.index('<div class="rooms">') :]
  rows = plan[: plan.index('<h2')].split('<div class="row">')[1:]
  first = [re.findall(r'<div><b>(.*?)</b>', row) for row in rows]
  assert first[0] == ['commands']
  assert ['config/', 'scoring/', 'teachers/'] in first
  assert first[-1] == ['ops/', 'metrics/', 'errors · wording']


def test_links_to_files_outside_of_the_docs_are_downloads(site):
  page = (site / 'export.html').read_text()
  (path,) = set(re.findall(r'href="(_downloads/[^"]*/run_exported\.py)"', page))
  assert (site / path).read_bytes() == (ROOT / 'examples' / 'run_exported.py').read_bytes()


def test_links_of_pages_above_the_docs_lead_to_their_copies(site):
  page = (site / 'contributing.html').read_text()
  for target in ('security.html', 'changelog.html', 'extending.html#a-new-method'):
    assert f'href="{target}"' in page, target
  assert 'href="serving.html#security"' in (site / 'security.html').read_text()


def test_pages_load_nothing_from_elsewhere(site):
  loaded = r'<(?:script|img|iframe)[^>]* src="([^"]*)"|<link[^>]* href="([^"]*)"'
  for page in site.rglob('*.html'):
    for groups in re.findall(loaded, page.read_text()):
      assert '//' not in ''.join(groups), (page, groups)
  for sheet in site.rglob('*.css'):
    assert not re.search(r'@import|url\(["\']?(https?:)?//', sheet.read_text()), sheet


@pytest.mark.skipif(CHROMIUM is None, reason='needs a chromium binary')
def test_no_page_is_wider_than_a_telephone(site, tmp_path):
  """Tables and blocks of code scroll by themselves; and no page complains."""
  with Browser(tmp_path / 'profile') as browser:
    wide = (
      "[...document.querySelectorAll('article *')].filter(e => "
      "!e.closest('pre, .table-wrapper') && e.getBoundingClientRect().right > innerWidth + 1)"
      '.map(e => e.outerHTML)'
    )
    for number, name in enumerate(WIDE):
      page = (site / name).with_suffix('.html')
      browser.show(page.as_uri(), width=390, dark=bool(number % 2))
      assert browser.value(wide) == [], name
    assert browser.complaints() == []
    added = '<p style="width: 500px">'
    browser.value(
      f"document.querySelector('article').insertAdjacentHTML('beforeend', '{added}')"
    )
    assert browser.value(wide) != []
