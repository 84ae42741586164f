"""Every command in README and docs names files, flags and fields that there are."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import PAGES, README, ROOT, check_ours, commands

from memkd_jax import methods
from memkd_jax.__main__ import COMMANDS
from memkd_jax.errors import UserError

# What python starts, and the command that it is.
MODULES = {f'memkd_jax.{command.module}': name for name, command in COMMANDS.items()}
TOOLS = {
  'tools/convert_torchvision.py': 'weights',
  'tools/score_maps.py': 'score-maps',
  'tools/prepare_tfds.py': 'prepare-tfds',
}

ALL = [(page, words) for page in PAGES for words in commands(page)]
OURS = [(page, words) for page, words in ALL if re.match('python|memkd', Path(words[0]).name)]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def test_there_are_commands():
  assert len(OURS) > 40


@pytest.mark.parametrize(
  ('page', 'words'), OURS, ids=lambda x: x.name if isinstance(x, Path) else ' '.join(x)[:60]
)
def test_command(page, words):
  program, *arguments = words[1:]
  if Path(words[0]).name == 'memkd':
    check_ours(program, arguments)
    return
  if program == '-c':
    imports = [
      s for s in ast.parse(arguments[0]).body if isinstance(s, ast.Import | ast.ImportFrom)
    ]
    exec(compile(ast.Module(imports, []), page.name, 'exec'), {})
    return
  if program == '-m':
    program, *arguments = arguments
  if program == 'memkd_jax':
    check_ours(arguments[0], arguments[1:])
  elif name := MODULES.get(program, TOOLS.get(program)):
    check_ours(name, arguments)
  elif program.endswith('.py'):
    assert (ROOT / program).is_file()
    check_help(program, arguments)
  else:
    assert program in ('venv', 'pytest', 'sphinx')
    for argument in arguments:
      if argument.startswith('tests/'):
        assert (ROOT / argument.split('::')[0]).exists()


def test_a_wrong_command_is_found():
  check_ours('train', ['--config=mvtec:rd', '--config.train.epochs=2', '--dump-maps'])
  for name, arguments in (
    ('trian', []),
    ('train', ['--config=nope']),
    ('train', ['--config.train.epoch=2']),
    ('predict', ['--workdir=DIR', '--bogus']),
    ('weights', ['--arch=resnet18']),
  ):
    with pytest.raises((KeyError, UserError, AssertionError, SystemExit)):
      check_ours(name, arguments)


def check_help(program, arguments):
  source = (ROOT / program).read_text()
  for argument in arguments:
    if argument.startswith('--'):
      name = argument.removeprefix('--').partition('=')[0]
      assert re.search(rf"['\"](--)?{name}['\"]", source), f'{program} has no flag {name}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)\s]+)', page.read_text()):
    file, _, anchor = target.partition('#')
    if '://' not in target:
      found = page.parent / file if file else page
      assert found.exists(), target
      assert not anchor or anchor in anchors(found), target


def anchors(page):
  """What a link can name in a page: its headings, as viewers of a repository make them."""
  headings = re.findall(
    r'^#+ (.*)', re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M), re.M
  )
  texts = [re.sub(r'\[(.*?)\]\(.*?\)', r'\1', heading).lower() for heading in headings]
  return {re.sub(r'[^\w\- ]', '', text).replace(' ', '-') for text in texts}


def test_the_index_names_every_page_in_its_list_and_in_its_tree():
  folder = ROOT / 'docs'
  index = (folder / 'index.md').read_text()
  blocks = re.findall(r'^```\{toctree\}\n(.*?)^```', index, re.S | re.M)
  tree = [line for block in blocks for line in block.split('\n\n')[1].split()]
  listed = re.findall(r'\]\(([^)#]+)\.md\)', index)
  pages = {
    str(page.relative_to(folder).with_suffix('')) for page in PAGES if folder in page.parents
  }
  assert sorted(tree) == sorted(listed) == sorted(pages - {'index'})


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_flags_in_tables_are_fields(page):
  fields = {field.name for method in methods.METHODS for field in methods.fields(method)}
  for name in re.findall(r'--config\.([a-z0-9_.]+)', page.read_text()):
    name = name.rstrip('.')
    assert name in fields or any(field.startswith(f'{name}.') for field in fields), name


def test_python_in_the_readme_is_python():
  for block in re.findall(r'```python\n(.*?)```', README.read_text(), re.S):
    compile(block, 'README.md', 'exec')


def test_predict_tells_all_its_flags():
  command = [sys.executable, '-m', 'memkd_jax', 'predict', '--help']
  text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
  page = (ROOT / 'docs' / 'predicting.md').read_text()
  for flag in set(re.findall(r'--[a-z-]+', text)) - {'--help'}:
    assert flag in page or flag in ('--workdir', '--category'), flag


def test_every_figure_has_a_script_that_draws_it():
  scripts = [*(ROOT / 'docs' / 'figures').glob('*.py'), *(ROOT / 'benchmarks').glob('*.py')]
  texts = [script.read_text() for script in scripts]
  for figure in (ROOT / 'docs').glob('*.png'):
    assert any(f'docs/{figure.name}' in text for text in texts), figure.name
