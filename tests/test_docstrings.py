"""What docstrings say of arguments and attributes stands alone, and is of real ones."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / 'memkd_jax'
SECTION = re.compile(r'^(?:Args|Attributes):\n((?:  .*\n?|\n)+)', re.MULTILINE)
ENTRY = re.compile(r'^  (\w+(?:, \w+)*): (.*(?:\n    .*)*)', re.MULTILINE)
FRAGMENT = re.compile(
  '(of|for|that|in|to|which|with|by|as|at|on|whose|likewise|see above|the same)\\b',
  re.IGNORECASE,
)
REFERENCE = re.compile(r'see `(?:\w+\.)*?(?:(\w+)\.)?(\w+)`')

NODES = [  # (file, class or function)
  (path.relative_to(PACKAGE), node)
  for path in sorted(PACKAGE.rglob('*.py'))
  for node in ast.walk(ast.parse(path.read_text()))
  if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
]
CLASSES = {node.name: node for _, node in NODES if isinstance(node, ast.ClassDef)}
ENTRIES = [  # (file, class or function, name, text)
  (path, node, name, ' '.join(text.split()))
  for path, node in NODES
  for section in SECTION.findall(ast.get_docstring(node) or '')
  for names, text in ENTRY.findall(section)
  for name in names.split(', ')
]


def names_of(node):
  """The parameters of a function, or what a class and its bases of the package define."""
  if not isinstance(node, ast.ClassDef):
    return {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
  stored = [n for n in ast.walk(node) if isinstance(getattr(n, 'ctx', None), ast.Store)]
  names = {getattr(n, 'id', getattr(n, 'attr', None)) for n in stored}
  names |= {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
  bases = [CLASSES[base.id] for base in node.bases if getattr(base, 'id', None) in CLASSES]
  return names.union(*map(names_of, bases))


def test_each_entry_stands_alone():
  wrong = []
  explained = {(n.name, name) for _, n, name, text in ENTRIES if not REFERENCE.match(text)}
  for path, node, name, text in ENTRIES:
    if reference := REFERENCE.match(text):  # to where this very one is explained
      stands = (reference[2], name) in explained or reference.groups() in explained
    else:
      stands = len(text.split()) > 3 and not FRAGMENT.match(text)
    if not stands:
      wrong.append(f'{path}, {node.name}: {name}: {text}')
  assert not wrong, '\n'.join(wrong)


def test_each_entry_is_of_a_real_name():
  assert len(ENTRIES) > 1000
  wrong = [(str(p), n.name, name) for p, n, name, _ in ENTRIES if name not in names_of(n)]
  assert not wrong
