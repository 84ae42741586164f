"""The commands of README and docs, for the tests that check or run them."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from memkd_jax import main
from memkd_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
README = ROOT / 'README.md'
PAGES = sorted(
  page
  for page in [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')]
  if '_build' not in page.parts
)


def lines(page: Path) -> Iterator[str]:
  """What stands in blocks of shell, continued lines joined."""
  for block in re.findall(r'^ *```sh\n(.*?)^ *```', page.read_text(), re.S | re.M):
    yield from block.replace('\\\n', ' ').splitlines()


def commands(page: Path) -> Iterator[list[str]]:
  """The words of each command, without variables and launchers before it."""
  for line in lines(page):
    for command in line.split('&&'):
      try:
        words = shlex.split(command, comments=True)
      except ValueError:  # a line of several
        continue
      while words and ('=' in words[0] or words[0] in ('srun', 'nohup')):
        words = words[1:]
      if words[-1:] == ['&']:
        words = words[:-1]
      if words:
        yield words


def check_ours(name, arguments):
  """The command's own parser takes them, and fields of a config exist and get their values."""
  if name in ('--help', '--version'):
    return
  module = importlib.import_module(f'memkd_jax.{COMMANDS[name].module}')
  flags, overrides = module._parser().parse_known_args(arguments)
  if module is main:
    main.load_config(*main._choose_config(flags, overrides))
  else:
    assert not overrides
