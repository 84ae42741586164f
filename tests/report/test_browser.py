"""The report as a browser sees it: no complaint, no request."""

import json
import shutil
import subprocess

import pytest
from PIL import Image

from memkd_jax import methods
from memkd_jax.report.environment import describe_environment
from memkd_jax.report.html import write_report
from memkd_jax.report.results import assemble
from memkd_jax.workdir import Workdir

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
HOSTILE = '<img src=http://example.com/a.png onerror=console.error(1)>'
RESULT = {
  'metrics': {'I-AUC': 0.9, 'P-AUC': 0.9, 'P-PRO': 0.9},
  'counts': {'train': 10, 'test_normal': 3, 'test_anomalous': 4},
}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs a chromium binary')


def load(page, profile, *flags):
  """(the document after loading, complaints on the console, what the page asked for)."""
  log = profile.with_suffix('.json')
  result = subprocess.run(
    [
      CHROMIUM,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--no-first-run',
      '--host-resolver-rules=MAP * ~NOTFOUND',
      '--enable-logging=stderr',
      f'--user-data-dir={profile}',
      f'--log-net-log={log}',
      '--dump-dom',
      *flags,
      page.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert result.returncode == 0
  complaints = [line for line in result.stderr.splitlines() if 'CONSOLE' in line]
  parameters = [event.get('params', {}) for event in json.loads(log.read_text())['events']]
  # The browser's own requests, for updates and the like, have no origin.
  asked = {
    p['url'] for p in parameters if p.get('initiator', 'not an origin') != 'not an origin'
  }
  return result.stdout, complaints, asked


def write(folder, dataset, runs, **arguments):
  """A report with pictures of the first category."""
  workdir = Workdir(folder)
  for name in ('figure.png', 'curves.png'):
    path = workdir.category(next(iter(runs[0])), 0) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (800, 400), 'red').save(path)
  arguments = {'failed': {}, 'notes': []} | arguments
  results = assemble(dataset, 'MemKD', range(len(runs)), runs, **arguments)
  results['environment'] = describe_environment(0.0)
  default = methods.get_config()
  return write_report(
    workdir, methods.resolve(default), results, default, methods.fields('memkd')
  )


@pytest.mark.parametrize('hostile', ['', HOSTILE])
def test_the_report_loads_quietly(tmp_path, hostile):
  page = write(
    tmp_path / 'run',
    'mvtec_ad',
    [{'bottle': RESULT, f'wood{hostile}': RESULT}],
    failed={'tile': f'broken {hostile}'},
    notes=[f'a note {hostile}'],
  )
  document, complaints, asked = load(page, tmp_path / 'profile')
  assert document.count('<img') == 2
  assert complaints == []
  assert asked == set()


@pytest.mark.parametrize('failed', [{}, {'pcb1': '/a/long/path' * 30}])
def test_nothing_overflows_a_phone(tmp_path, failed):
  runs = [dict.fromkeys(('candle', 'a_long_name' * 20), RESULT)] * 2
  page = write(tmp_path / 'run', 'visa', runs, failed=failed)
  phone = tmp_path / 'phone.html'
  phone.write_text(
    f'<iframe id=f src="{page.as_uri()}" style="width:390px;height:800px"></iframe>'
    '<p id=p><script>f.onload = () => {const d = f.contentDocument.documentElement;'
    "p.textContent = 'wide ' + (d.scrollWidth - d.clientWidth)}</script>"
  )
  flags = '--allow-file-access-from-files', '--virtual-time-budget=2000'
  document, _, _ = load(phone, tmp_path / 'profile', *flags)
  assert 'wide 0<' in document


def test_a_loud_page_would_be_noticed(tmp_path):
  page = tmp_path / 'page.html'
  page.write_text(HOSTILE)
  _, complaints, asked = load(page, tmp_path / 'profile')
  assert len(complaints) == 1
  assert asked == {'http://example.com/a.png'}
