"""Every command in README and docs names files, flags and fields that there are."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags as absl_flags
from documented import PAGES, README, ROOT, commands

from memkd_jax import config as base
from memkd_jax import export, predict, serve
from memkd_jax import main as _main  # noqa: F401 - defines its flags

PARSERS = {
  'memkd_jax.export': export._parser,
  'memkd_jax.predict': predict._parser,
  'memkd_jax.serve': serve._parser,
}

ALL = [(page, words) for page in PAGES for words in commands(page)]
OURS = [(page, words) for page, words in ALL if 'python' in Path(words[0]).name]


def test_there_are_commands():
  assert len(OURS) > 40


@pytest.mark.parametrize(
  ('page', 'words'), OURS, ids=lambda x: x.name if isinstance(x, Path) else ' '.join(x)[:60]
)
def test_command(page, words):
  program, *arguments = words[1:]
  if program == '-c':
    compile(arguments[0], page.name, 'exec')
    return
  if program == '-m':
    program, *arguments = arguments
  if program == 'memkd_jax.main':
    check_main(arguments)
  elif program in PARSERS:
    check_argparse(PARSERS[program](), arguments)
  elif program.endswith('.py'):
    assert (ROOT / program).is_file()
    check_help(program, arguments)
  else:
    assert program in ('venv', 'pytest')
    for argument in arguments:
      if argument.startswith('tests/'):
        assert (ROOT / argument.split('::')[0]).exists()


def check_main(arguments):
  config = base.get_config()
  for argument in arguments:
    name, _, value = argument.removeprefix('--').partition('=')
    if name == 'config':
      assert (ROOT / value.partition(':')[0]).is_file()
    elif name.startswith('config.'):
      assert name.removeprefix('config.') in base.flatten(config.to_dict())
    else:
      assert name in absl_flags.FLAGS


def check_argparse(parser, arguments):
  parser.exit_on_error = False
  try:
    parser.parse_args(arguments)
  except (SystemExit, argparse.ArgumentError) as error:
    pytest.fail(str(error))


def check_help(program, arguments):
  source = (ROOT / program).read_text()
  for argument in arguments:
    if argument.startswith('--'):
      name = argument.removeprefix('--').partition('=')[0]
      assert re.search(rf"['\"](--)?{name}['\"]", source), f'{program} has no flag {name}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
    if '://' not in target:
      assert (page.parent / target).exists(), target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_flags_in_tables_are_fields(page):
  fields = base.flatten(base.get_config().to_dict())
  for name in re.findall(r'--config\.([a-z0-9_.]+)', page.read_text()):
    name = name.rstrip('.')
    assert name in fields or any(field.startswith(f'{name}.') for field in fields), name


def test_python_in_the_readme_is_python():
  for block in re.findall(r'```python\n(.*?)```', README.read_text(), re.S):
    compile(block, 'README.md', 'exec')


def test_predict_tells_all_its_flags():
  command = [sys.executable, '-m', 'memkd_jax.predict', '--help']
  text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
  page = (ROOT / 'docs' / 'predicting.md').read_text()
  for flag in set(re.findall(r'--[a-z-]+', text)) - {'--help'}:
    assert flag in page or flag in ('--workdir', '--category'), flag
