"""The shell, the commands and the manifests of docs/tpu.md and examples/cluster."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from documented import ROOT

PAGE = ROOT / 'docs' / 'tpu.md'
CLUSTER = ROOT / 'examples' / 'cluster'
DOCKER = ROOT / 'examples' / 'docker'
MANIFESTS = [
  (path.name, document)
  for path in sorted(CLUSTER.glob('*.yaml'))
  for document in yaml.safe_load_all(path.read_text())
]
# What the startup script offers as the service's flags.
SERVICE_FLAGS = re.findall(r"flags='([^']*)'", (CLUSTER / 'tpu_startup.sh').read_text())


def scripts() -> dict[str, str]:
  """All shell, by where it stands."""
  found = {path.name: path.read_text() for path in sorted(CLUSTER.glob('*.sh'))}
  blocks = re.findall(r'^```sh\n(.*?)^```', PAGE.read_text(), re.S | re.M)
  found |= {f'{PAGE.name}:{i}': block for i, block in enumerate(blocks)}
  for name, document in MANIFESTS:
    found |= {f'{name}:{key}': document[key] for key in ('setup', 'run') if key in document}
  return found


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
  """The containers of a Kubernetes manifest, none where it has no pod."""
  spec = document.get('spec', {})
  return spec.get('template', {}).get('spec', spec).get('containers', [])


def trainings() -> Iterator[tuple[str, list[str]]]:
  """Each command of this package: where it stands, and its words after memkd."""
  pattern = re.compile(r"(?:memkd (?!-)|python -m (?=memkd_jax\.main))([^\n';|>&]*)")
  for place, text in scripts().items():
    for line in re.sub(r'\\\n', ' ', text).splitlines():
      if line.lstrip().startswith('#') or line.startswith('docker build'):
        continue
      if line.startswith('docker run'):  # after the image there are the entry point's words
        line = re.sub(r'.* memkd\S* (?=train|serve)', 'memkd ', line)
      for words in pattern.findall(line):
        program, *arguments = shlex.split(words)
        yield place, ['train' if program == 'memkd_jax.main' else program, *arguments]
  for name, document in MANIFESTS:
    for container in containers(document):
      if 'args' in container:
        yield name, container['args']
  unit = (CLUSTER / 'memkd.service').read_text()
  command = re.search(r'^ExecStart=\S*/memkd (.*) \$MEMKD_FLAGS$', unit, re.M)
  assert command
  for flags in SERVICE_FLAGS:
    yield 'memkd.service', shlex.split(f'{command[1]} {flags}')


def tool(name: str) -> str | None:
  """Where a linter is, on PATH or beside this Python; None where it is not."""
  return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def lint(command: list[str], text: str) -> str:
  """What a linter that reads standard input has to say, '' where it is content."""
  result = subprocess.run(command, input=text, capture_output=True, text=True)
  said = (result.stdout + result.stderr).strip()
  assert bool(said) == bool(result.returncode), said
  return said
