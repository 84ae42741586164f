"""What is around the package: templates, hooks, the workflow, the citation, the changelog."""

import configparser
import re
import shlex
import stat

import pytest
import yaml
from documented import ROOT

import memkd_jax

GITHUB = ROOT / '.github'
FORMS = [p for p in sorted((GITHUB / 'ISSUE_TEMPLATE').glob('*.yml')) if p.stem != 'config']
YAML = sorted(
  path
  for pattern in (
    '.github/**/*.yml',
    '.pre-commit-config.yaml',
    'CITATION.cff',
    'examples/**/*.yaml',
  )
  for path in ROOT.glob(pattern)
)
# What a form of an issue is made of, and what its parts may have beside type and id.
PARTS = {
  'markdown': {'value'},
  'textarea': {'label', 'description', 'placeholder', 'render', 'value'},
  'checkboxes': {'label', 'description', 'options'},
}


def load(path):
  return yaml.safe_load(path.read_text())


@pytest.mark.parametrize('path', YAML, ids=lambda path: path.name)
def test_yaml_is_parsed(path):
  assert all(document for document in yaml.safe_load_all(path.read_text()))


def test_there_is_what_a_visitor_looks_for():
  assert {path.stem for path in FORMS} == {'bug', 'feature'}
  for name in (
    'CONTRIBUTING.md',
    'SECURITY.md',
    'CODE_OF_CONDUCT.md',
    'LICENSE',
    'CHANGELOG.md',
  ):
    assert (ROOT / name).is_file()
  assert (GITHUB / 'pull_request_template.md').is_file()


@pytest.mark.parametrize('path', FORMS, ids=lambda path: path.stem)
def test_forms_of_issues(path):
  form = load(path)
  assert set(form) == {'name', 'description', 'labels', 'body'}
  parts = [part for part in form['body'] if part['type'] != 'markdown']
  assert len({part['id'] for part in parts}) == len(parts)
  assert any(part.get('validations') == {'required': True} for part in parts)
  for part in form['body']:
    assert set(part['attributes']) <= PARTS[part['type']]
    assert part['type'] == 'markdown' or part['attributes']['label']


def test_the_workflow_is_the_command_of_the_repository():
  workflow = load(GITHUB / 'workflows' / 'tests.yml')
  assert workflow['permissions'] == {'contents': 'read'}
  assert set(workflow[True]) == {'push', 'pull_request'}  # YAML's "on"
  (job,) = workflow['jobs'].values()
  *_, python, run = job['steps']
  assert run == {'run': '.ci/run'}
  script = ROOT / '.ci' / 'run'
  assert script.stat().st_mode & stat.S_IXUSR
  wanted = re.findall(r'find_python ([\d. ]+)\)', script.read_text())
  assert python['with']['python-version'].split() == sorted(w.split()[0] for w in wanted)


def test_hooks_are_tools_of_the_environment_and_need_no_network():
  config = configparser.ConfigParser()
  config.read(ROOT / 'setup.cfg')
  dev = re.findall(r'^[\w-]+', config['options.extras_require']['dev'], re.M)
  repositories = load(ROOT / '.pre-commit-config.yaml')['repos']
  hooks = [hook for repository in repositories for hook in repository['hooks']]
  assert {repository['repo'] for repository in repositories} == {'local'}
  assert {hook['language'] for hook in hooks} == {'system'}
  entries = [shlex.split(hook['entry']) for hook in hooks]
  assert all(entry[:2] == ['python', '-m'] and entry[2] in dev for entry in entries)
  assert {hook['id'] for hook in hooks} == {'ruff-check', 'ruff-format', 'mypy'}


def test_versions_and_dates_agree():
  """A section of the changelog for each version; the citation has the newest one's date."""
  sections = re.findall(r'^## (.*)$', (ROOT / 'CHANGELOG.md').read_text(), re.M)
  found = [re.fullmatch(r'(\d+\.\d+\.\d+), (unreleased|\d{4}-\d\d-\d\d)', s) for s in sections]
  assert all(found), sections
  versions = [tuple(map(int, match[1].split('.'))) for match in found]
  assert versions == sorted(set(versions), reverse=True)
  assert all(match[2] != 'unreleased' for match in found[1:])
  version, date = found[0].groups()
  citation = load(ROOT / 'CITATION.cff')
  assert version == citation['version'] == memkd_jax.__version__
  assert str(citation.get('date-released', 'unreleased')) == date
