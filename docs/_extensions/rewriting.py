"""What is written for a viewer of the repository, or for a terminal, rewritten for the site."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def _links(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
  """Turns the links of a page above docs/, CONTRIBUTING.md for example, into its copy's."""

  def of_copy(link: re.Match[str]) -> str:
    target = link[1]
    if target.startswith('docs/'):
      return f']({target.removeprefix("docs/")}'
    here = target.lower()
    return f']({here}' if (Path(app.srcdir) / here).is_file() else f'](../{target}'

  content[0] = re.sub(r'\]\((?!https?:|#)([^)#]+)', of_copy, content[0])


def _returns(
  app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
  """Makes a field of 'Returns:'; napoleon takes what stands before a colon there for a type."""
  for title in ('Returns:', 'Yields:'):
    if title in lines:
      number = lines.index(title)
      lines[number : number + 2] = [f':{title[:-1].lower()}: {lines[number + 1].strip()}']


def _dashes(app: Sphinx, document: nodes.document) -> None:
  """Sets the dash between a parameter and its meaning, which Sphinx leaves to smart quotes."""
  for text in list(document.findall(nodes.Text)):
    if text == ' -- ':
      text.parent.replace(text, nodes.Text(' \N{EN DASH} '))


def setup(app: Sphinx) -> dict[str, Any]:
  """Called by Sphinx."""
  app.connect('include-read', _links)
  app.connect('autodoc-process-docstring', _returns, priority=400)  # before napoleon
  app.connect('doctree-read', _dashes)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}
