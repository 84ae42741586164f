"""examples/docker/Dockerfile: linted, read, and built and run where a Docker daemon answers."""

import json
import re
import shlex
import subprocess
import time
import uuid
from configparser import RawConfigParser

import pytest
from documented import ROOT, check_ours
from recipes import DOCKER, lint, tool
from test_docs_run import TINY

DOCKERFILE = DOCKER / 'Dockerfile'
LINES = [
  line.split(maxsplit=1)
  for line in re.sub(r'\\\n', ' ', DOCKERFILE.read_text()).splitlines()
  if line and not line.startswith('#')
]


def of(instruction):
  """What stands after each instruction of this name."""
  return [words for name, words in LINES if name == instruction]


def test_hadolint_has_nothing_to_say():
  if not (hadolint := tool('hadolint')):
    pytest.skip('needs hadolint')
  assert lint([hadolint, '-'], DOCKERFILE.read_text()) == ''
  assert 'DL3007' in lint([hadolint, '-'], 'FROM debian:latest\n')


def test_bases_are_pinned_by_tag():
  stages = [re.match(r'(\S+) AS (\w+)$', words).groups() for words in of('FROM')]
  assert [name for _, name in stages] == ['build', 'train', 'serve']
  assert {base for base, _ in stages} == {'python:3.13-slim', 'train'}


def test_what_is_copied_exists_and_is_not_ignored():
  names = [name for words in of('COPY') if '--from' not in words for name in words.split()[:-1]]
  assert 'memkd_jax' in names and 'setup.cfg' in names
  for name in names:
    assert (ROOT / name).exists(), name
  kept = (DOCKER / 'Dockerfile.dockerignore').read_text().splitlines()
  assert {line[1:] for line in kept if line.startswith('!')} == set(names)


def test_commands_are_ours_and_parsed():
  settings = RawConfigParser()
  settings.read(ROOT / 'setup.cfg')
  scripts = settings['options.entry_points']['console_scripts']
  (entry,) = map(json.loads, of('ENTRYPOINT'))
  assert [f'{entry[0]} ='] == re.findall(r'^\s*(\w+ =)', scripts, re.M)
  train, serve = (json.loads(words) for words in of('CMD'))
  assert train == ['train', '--help']
  check_ours(serve[0], serve[1:])
  assert '--host=0.0.0.0' in serve


def test_it_does_not_run_as_root():
  assert of('USER') == ['1000']
  assert LINES.index(['USER', '1000']) > max(
    i for i, (name, words) in enumerate(LINES) if name == 'RUN'
  )


def test_health_is_asked_for_where_the_server_tells_it():
  (check,) = of('HEALTHCHECK')
  (url,) = re.findall(r'http://[^\']+', check)
  assert url == 'http://127.0.0.1:8000/healthz'
  assert of('EXPOSE') == ['8000']
  assert '`GET /healthz`' in (ROOT / 'docs' / 'serving.md').read_text()
  compile(json.loads(check.partition('CMD ')[2])[2], 'HEALTHCHECK', 'exec')


@pytest.mark.slow
def test_it_builds_trains_and_serves():
  """Ten minutes, a Docker daemon, its registry and a package index."""
  docker = tool('docker')
  if not docker or subprocess.run([docker, 'info'], capture_output=True).returncode:
    pytest.skip('needs a Docker daemon')
  tag = f'memkd-test-{uuid.uuid4().hex[:8]}'

  def run(line):
    result = subprocess.run(
      [docker, *shlex.split(line)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, f'{line}\n{result.stdout[-2000:]}{result.stderr[-2000:]}'
    return result.stdout.strip()

  try:
    for target in ('train', 'serve'):
      run(f'build -f examples/docker/Dockerfile --target={target} -t {tag}:{target} .')
    assert run(f'run --rm --entrypoint=id {tag}:train -u') == '1000'
    run(
      f'run --rm -v {tag}:/runs {tag}:train train --config=demo --workdir=/runs/mine {TINY} '
      '--config.data.categories=brick'
    )
    run(f'run --detach --name={tag} -v {tag}:/runs {tag}:serve')
    deadline = time.monotonic() + 300
    while run(f'inspect --format={{{{.State.Health.Status}}}} {tag}') != 'healthy':
      assert time.monotonic() < deadline, run(f'logs {tag}')
      time.sleep(5)
    run(f'stop {tag}')
    assert run(f'inspect --format={{{{.State.ExitCode}}}} {tag}') == '0'
  finally:
    for line in (f'rm -f {tag}', f'volume rm -f {tag}', f'rmi -f {tag}:train {tag}:serve'):
      subprocess.run([docker, *line.split()], capture_output=True)
