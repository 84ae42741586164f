"""Lists the benchmarks, and says whether a data set is complete and undamaged.

memkd datasets list
memkd datasets check DIR
memkd datasets check DIR --dataset=mvtec_ad --categories=bottle,cable --all --json=FILE
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkd_jax import cli
from memkd_jax.errors import UserError, explain
from memkd_jax.runtime import interrupt
from memkd_jax.wording import counted

if TYPE_CHECKING:
  from memkd_jax.data.findings import Finding
  from memkd_jax.data.inspection import Category, Inspection
  from memkd_jax.data.sample import Dataset

_NAMED = 3  # findings of a kind
_GAP = '  '


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (there are faults) or 75 (stopped)."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('datasets', lambda: flags.run(flags))


def _list(flags: argparse.Namespace) -> None:
  """Prints the table of benchmarks."""
  from memkd_jax.data.datasets import DATASETS

  rows = [['data set', 'categories', 'command', 'where to get it']]
  for name, dataset in DATASETS.items():
    if dataset.categories:
      command = shlex.join(_train(name, dataset))
      rows.append([name, str(len(dataset.categories)), command, f'{dataset.where}.'])
  print(_table(rows, right=(1,)))
  own = [shlex.join(_train(n, d, 'DIR')) for n, d in DATASETS.items() if not d.categories]
  print(f"\nImages of one's own: {'; '.join(own)}.")


def _check(flags: argparse.Namespace) -> int:
  """Looks a data set over, and says what was found."""
  from memkd_jax.data.inspection import inspect
  from memkd_jax.data.recognition import recognise
  from memkd_jax.files.atomic import write_json

  root = Path(flags.dir).expanduser()
  chosen = [name.strip() for name in (flags.categories or '').split(',') if name.strip()]
  with interrupt.handled():
    try:
      name = flags.dataset or recognise(root)
      found = inspect(root, name, chosen or None, decode=not flags.fast)
    except UserError as error:
      # The readers know the flags of the run that will follow.
      raise UserError(str(error).replace('--config.data.dir=', '')) from error
  print('\n'.join(_describe(found, flags.all, bool(flags.dataset))))
  print()
  print(_conclude(found, chosen))
  if flags.json is not None:
    write_json(flags.json, _as_json(found))
  return 1 if found.faults else 0


def _describe(found: 'Inspection', every: bool, was_named: bool) -> list[str]:
  """What is there, as lines: a heading, the table of categories, and what was found."""
  from memkd_jax.data.datasets import DATASETS
  from memkd_jax.data.findings import KINDS, by_kind

  rows = _rows(found)
  numbers = range(1, len(rows[0]) - 1 - found.decoded)
  lines = [_heading(found, was_named), '', _table(rows, right=numbers)]
  groups = by_kind(found.findings)
  for kind, findings in groups.items():
    title = KINDS[kind].title if KINDS[kind].is_fault else f'Note: {KINDS[kind].title.lower()}'
    lines += ['', f'{title}: {len(findings)}']
    shown = findings if every else findings[:_NAMED]
    lines += [f'  {_relative(found.root, finding)}' for finding in shown]
    if more := len(findings) - len(shown):
      lines.append(f'  and {more} more')
    if kind == 'missing category':
      lines.append(f'  {DATASETS[found.dataset].where}.')
  return lines


def _heading(found: 'Inspection', was_named: bool) -> str:
  from memkd_jax.data.datasets import DATASETS

  dataset, there = DATASETS[found.dataset], sum(c.is_there for c in found.categories)
  if dataset.is_listed:
    return f"{found.root} holds images of one's own, without a layout ({found.dataset})."
  if not dataset.categories:
    number = counted(there, 'category', 'categories')
    return f"{found.root} holds images of one's own in the layout {found.dataset}: {number}."
  known = len(dataset.categories)
  looked_at = f' Of these {len(found.categories)} were looked at.' * (
    len(found.categories) < known
  )
  if not looked_at and not was_named and 2 * there < known:
    looked_at = ' If these are images of your own, add --dataset=folder.'
  here = sum((found.root / name).exists() for name in dataset.categories)
  number = f'{max(here, there)} of {counted(known, "category", "categories")}'
  return f'{found.root} holds {found.dataset}: {number}.{looked_at}'


def _rows(found: 'Inspection') -> list[list[str]]:
  """The table's cells, the heading first."""
  there = {name for category in found.categories for name in category.counts}
  titles = {'train': 'train', 'validation': 'validation', 'test_normal': 'normal'}
  titles |= {'test_anomalous': 'anomalous', 'masks': 'masks', 'unlabelled': 'unlabelled'}
  titles = {name: title for name, title in titles.items() if name in there}
  rows = [['category', *titles.values()]]
  rows[0] += ['size'] * found.decoded + ['verdict']
  for category in found.categories:
    numbers = category.counts
    cells = [str(numbers.get(name, '-')) if category.is_there else '-' for name in titles]
    size = [_size(category)] * found.decoded
    rows.append([category.name, *cells, *size, _verdict(category)])
  return rows


def _size(category: 'Category') -> str:
  """What the images of a category measure, in a few words."""
  sizes = list(category.sizes)
  if len(sizes) < 2:
    return ''.join(f'{width} x {height}' for width, height in sizes) or '-'
  return f'{len(sizes)} sizes'


def _verdict(category: 'Category') -> str:
  if not category.is_there:
    return 'missing'
  return counted(category.faults, 'fault') if category.faults else 'complete'


def _relative(root: Path, finding: 'Finding') -> str:
  """What was found, with paths as seen from the data set's folder, which the heading names."""
  text = finding.text.replace(f'{root}/', '')
  return explain(UserError(text))


def _conclude(found: 'Inspection', chosen: Sequence[str]) -> str:
  """The last sentence, with the command that comes next."""
  from memkd_jax.data.datasets import DATASETS

  sound = [category.name for category in found.categories if not category.faults]
  command = _train(found.dataset, DATASETS[found.dataset], str(found.root))
  if chosen or len(sound) < len(found.categories):
    command.append(f'--config.data.categories={",".join(sound)}')
  whole = found.categories[0].name if len(found.categories) == 1 else found.root.resolve().name
  command.append(f'--workdir=runs/{whole}')
  undecoded = '' if found.decoded else ' (no image was decoded)'
  if not found.faults:
    return f'Nothing is wrong{undecoded}. To train on it: {shlex.join(command)}'
  number = len(found.categories)
  of = f'in {number - len(sound)} of {counted(number, "category", "categories")}'
  rest = f' To train on the others: {shlex.join(command)}' if sound else ''
  return f'{counted(found.faults, "fault")} {of}{undecoded}.{rest}'


def _train(name: str, dataset: 'Dataset', folder: str = '') -> list[str]:
  """The words of the command that trains on a data set, in its folder if one is given."""
  if dataset.is_listed:
    return ['memkd', 'train', f'--good={folder}']
  place = [f'--config.data.dir={folder}'] if folder else []
  return ['memkd', 'train', f'--config={dataset.config or name}', *place]


def _as_json(found: 'Inspection') -> dict[str, Any]:
  """All of it, paths in full."""
  from memkd_jax.data.benchmarks.counts import published

  return {
    'root': str(found.root),
    'dataset': found.dataset,
    'decoded': found.decoded,
    'faults': found.faults,
    'categories': [
      {
        'name': category.name,
        'is_there': category.is_there,
        'faults': category.faults,
        'counts': category.counts,
        'published': published(found.dataset, category.name),
        'sizes': [[*size, number] for size, number in category.sizes.most_common()],
      }
      for category in found.categories
    ],
    'findings': [
      {'kind': f.kind, 'is_fault': f.is_fault, 'path': f.path, 'text': f.text}
      for f in found.findings
    ],
  }


def _table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
  """Cells in columns, some of them set to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = (
    _GAP.join(
      cell.rjust(width) if i in right else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    for row in rows
  )
  return '\n'.join(line.rstrip() for line in lines)


class _Sub(cli.Parser):
  """The parser of one of the two."""

  def __init__(self, prog: str, **options: Any):
    """Takes what argparse gives."""
    super().__init__(prog.removeprefix('memkd '), options.pop('description'), **options)


def _parser() -> cli.Parser:
  from memkd_jax.data.datasets import DATASETS

  parser = cli.Parser('datasets', 'Lists benchmarks, or checks a data set.')
  commands = parser.add_subparsers(
    title='commands', dest='what', metavar='COMMAND', required=True, parser_class=_Sub
  )
  text = 'list the benchmarks, with where to get them'
  one = commands.add_parser('list', help=text, description='Lists the benchmarks.')
  one.set_defaults(run=_list)
  text = 'say what of a data set is missing or damaged'
  what = 'Says what of a data set is missing or damaged; exit code 1 if anything is.'
  one = commands.add_parser('check', help=text, description=what)
  one.set_defaults(run=_check)
  add = one.add_argument
  add('dir', metavar='DIR', help="the data set's folder, or a file that lists images")
  add(
    '--dataset',
    choices=DATASETS,
    metavar='NAME',
    help='what it is; recognised by its categories and its layout if left out',
  )
  add(
    '--categories',
    metavar='NAMES',
    help='names separated by commas, to look at these alone; all if left out',
  )
  add('--fast', action='store_true', help='looks at names and numbers, and decodes no image')
  add('--all', action='store_true', help=f'names all that was found, not {_NAMED} of each kind')
  add('--json', metavar='FILE', help='writes all that was found to a file')
  return parser


if __name__ == '__main__':
  cli.start(main)
