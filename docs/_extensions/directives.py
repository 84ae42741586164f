"""Directives of the site: all fields of a config, all commands, and the plan of the rooms.

The first two are made of the tables that --help prints, so they cannot fall behind.
"""

import argparse
import importlib
import itertools
import re
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from memkd_jax import methods
from memkd_jax.__main__ import COMMANDS
from memkd_jax.config import Field


class Fields(SphinxDirective):
  """Every field of a config, those of one section below its name."""

  def run(self) -> list[nodes.Node]:
    found = [_section('Fields of all methods', 'all', _by_section(methods.fields('memkd'), ''))]
    for names, fields in methods.own_fields():
      title = f'Fields of {" and ".join(names)}'
      found.append(_section(title, names[0], [_definitions(fields, f'{names[0]}.')]))
    return found


def _by_section(fields: Iterable[Field], prefix: str) -> list[nodes.Node]:
  sections: dict[str, list[Field]] = {}
  for field in fields:
    sections.setdefault(field.name.rpartition('.')[0], []).append(field)
  return [
    _section(name or 'top level', f'section-{name or "none"}', [_definitions(found, prefix)])
    for name, found in sections.items()
  ]


def _definitions(fields: Iterable[Field], prefix: str) -> nodes.Node:
  entries = []
  for field in fields:
    if field.help:  # without it, it was renamed
      text = f'{field.help}.'
      if field.choices:
        kind = 'Any of' if isinstance(field.default, tuple) else 'One of'
        text += f' {kind} {", ".join(map(str, field.choices))}.'
      entries.append((f'--config.{field.name}={field.default}', text, prefix + field.name))
  return _list(entries)


class Commands(SphinxDirective):
  """Every command with its flags."""

  def run(self) -> list[nodes.Node]:
    found, known = [], {}
    for name, command in COMMANDS.items():
      body: list[nodes.Node] = [_paragraph(f'{command.help[0].upper()}{command.help[1:]}.')]
      if first := known.get(command.module):
        body.append(_paragraph(f'It takes the flags of memkd {first}.'))
      else:
        known[command.module] = name
        parser = importlib.import_module(f'memkd_jax.{command.module}')._parser()
        body += _flags(parser, name)
      found.append(_section(f'memkd {name}', f'memkd-{name}', body))
    return found


def _flags(parser: argparse.ArgumentParser, command: str) -> list[nodes.Node]:
  usage = ' '.join(parser.format_usage().removeprefix('usage: ').split())
  shown: list[nodes.Node] = [nodes.literal_block(usage, usage, classes=['usage'])]
  if parser.description:
    shown.append(_paragraph(parser.description))
  entries, formatter = [], parser._get_formatter()
  for action in parser._actions:
    if action.help in (None, argparse.SUPPRESS) or action.dest == 'help':
      continue
    spelled = ', '.join(_with_value(action, option) for option in action.option_strings)
    term = spelled or str(action.metavar or action.dest)
    entries.append((term, f'{formatter._expand_help(action)}.', f'{command}-{action.dest}'))
  return [*shown, _list(entries)]


def _with_value(action: argparse.Action, option: str) -> str:
  if action.nargs == 0:
    return option
  value = str(action.metavar or action.dest.upper())
  return f'{option}[={value}]' if action.nargs == '?' else f'{option}={value}'


class Rooms(SphinxDirective):
  """A mermaid flowchart from top to bottom, as rows of boxes, without a script.

  Each node stands in the row below the lowest of those that lead to it.
  """

  has_content = True

  def run(self) -> list[nodes.Node]:
    text = '\n'.join(self.content)
    labels = dict(re.findall(r'(\w+)\["(.*?)"\]', text))
    rows = dict.fromkeys(labels, 0)
    for line in text.splitlines():
      if '-->' not in line:
        continue
      groups = [re.findall(r'\w+', group) for group in line.split('-->')]
      for above, below in itertools.pairwise(groups):
        for name in below:
          rows[name] = max(rows[name], 1 + max(rows[other] for other in above))
    if not labels:
      raise self.error('a flowchart has nodes, name["label"]')
    lines = []
    for number in range(max(rows.values()) + 1):
      boxes = [f'<div>{labels[name]}</div>' for name, row in rows.items() if row == number]
      lines.append(f'<div class="row">{"".join(boxes)}</div>')
    return [nodes.raw('', f'<div class="rooms">{"".join(lines)}</div>', format='html')]


def _paragraph(text: str) -> nodes.Node:
  return nodes.paragraph(text, text)


def _section(title: str, name: str, children: Iterable[nodes.Node]) -> nodes.section:
  return nodes.section('', nodes.title(title, title), *children, ids=[nodes.make_id(name)])


def _list(entries: Iterable[tuple[str, str, str]]) -> nodes.Node:
  """Of (term, meaning, what the term's address is made of)."""
  items = [
    nodes.definition_list_item(
      '',
      nodes.term('', '', nodes.literal(term, term), ids=[nodes.make_id(address)]),
      nodes.definition('', _paragraph(meaning)),
    )
    for term, meaning, address in entries
  ]
  return nodes.definition_list('', *items)


def setup(app: Sphinx) -> dict[str, Any]:
  """Called by Sphinx."""
  for name, directive in (('fields', Fields), ('commands', Commands), ('mermaid', Rooms)):
    app.add_directive(name, directive)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}
