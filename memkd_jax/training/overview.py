"""What parameters a training has: a line for the screen, a table for the task's folder."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

FILE = 'parameters.txt'
TEACHER = 'teacher'


class Part(NamedTuple):
  """An array of parameters.

  Attributes:
    name: place of the array in the tree, 'student_stage1/block0/conv1/kernel' for example.
    array: numpy array or its shape and dtype.
    trained: False for what stays as it is.
  """

  name: str
  array: Any
  trained: bool

  @property
  def group(self) -> str:
    """The part of the model that it belongs to."""
    first = self.name.partition('/')[0]
    if not self.trained:
      return TEACHER
    named = [name for name in ('student', 'memory', TEACHER) if first.startswith(name)]
    group = named[0] if named else first
    return {'memory': 'memories', TEACHER: 'adapted teacher'}.get(group, group)

  @property
  def size(self) -> int:
    """How many numbers it holds."""
    return int(np.prod(self.array.shape, dtype=np.int64))

  @property
  def bytes(self) -> int:
    """Bytes that it takes."""
    return self.size * int(np.dtype(self.array.dtype).itemsize)


def parts_of(params: Any, teacher_params: Any) -> list[Part]:
  """All parameters: those of the frozen teacher, then those that are trained.

  Args:
    params: what is trained, a tree of arrays or of their shapes.
    teacher_params: the extractor's parameters, a tree of arrays or of their shapes.
  """
  return [*_leaves(teacher_params, False), *_leaves(params, True)]


def _leaves(tree: Any, trained: bool) -> Iterator[Part]:
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield Part(jax.tree_util.keystr(path, simple=True, separator='/'), leaf, trained)


def one_line(parts: list[Part], state: Any) -> str:
  """The numbers of each part of the model as one sentence.

  Args:
    parts: all parameters, as `parts_of` gives them.
    state: all that a step takes and gives, the optimizer's moments among it; for its size.
  """
  groups = {part.group: 0 for part in parts}
  for part in parts:
    groups[part.group] += part.size
  frozen = groups.pop(TEACHER, 0)
  trained = ', '.join(f'{name} {_millions(size)}' for name, size in groups.items())
  held = sum(Part('', leaf, True).bytes for leaf in jax.tree.leaves(state))
  return (
    f'Parameters: teacher {_millions(frozen)}, frozen; {trained}, trained: '
    f'{_millions(sum(groups.values()))}, {held / 1e6:,.1f} MB with optimizer and statistics.'
  )


def table(parts: list[Part]) -> str:
  """A row for each array, and the totals of each part of the model, as aligned text."""
  rows = [('module', 'shape', 'dtype', 'parameters', 'MB', '')]
  for group in dict.fromkeys(part.group for part in parts):
    members = [part for part in parts if part.group == group]
    prefix = '' if members[0].trained else f'{TEACHER}/'
    rows += [
      (
        prefix + part.name,
        ' x '.join(map(str, part.array.shape)) or 'scalar',
        str(part.array.dtype),
        *_numbers([part]),
      )
      for part in members
    ]
    rows.append((f'total of {group}', '', '', *_numbers(members)))
  for what, trained in (('frozen', False), ('trained', True)):
    chosen = [part for part in parts if part.trained is trained]
    rows.append((f'total {what}', '', '', *_numbers(chosen)))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [
      cell.rjust(width) if 3 <= number <= 4 else cell.ljust(width)
      for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append('  '.join(cells).rstrip())
  return '\n'.join(lines) + '\n'


def _numbers(parts: list[Part]) -> tuple[str, str, str]:
  size, taken = sum(part.size for part in parts), sum(part.bytes for part in parts)
  kinds = {part.trained for part in parts}
  return f'{size:,}', f'{taken / 1e6:,.3f}', 'trained' if kinds == {True} else 'frozen'


def _millions(number: int) -> str:
  return f'{number / 1e6:.1f} M' if number >= 1e5 else f'{number:,}'
