"""The report's tables as HTML."""

from collections.abc import Sequence
from html import escape
from typing import Any

from memkd_jax.report.comparison import Row, subtract


class Footnotes:
  """Numbers footnotes in the order of their first mark; equal texts share a number."""

  def __init__(self) -> None:
    self._texts: list[str] = []

  def mark(self, text: str | None) -> str:
    """The mark of a footnote, nothing for None."""
    if text is None:
      return ''
    if text not in self._texts:
      self._texts.append(text)
    number = self._texts.index(text) + 1
    return f'<sup><a href="#note-{number}" aria-label="note {number}">{number}</a></sup>'

  def html(self) -> str:
    """The list of all that were marked."""
    if not self._texts:
      return ''
    items = [
      f'<li id="note-{number}">{escape(text)}</li>'
      for number, text in enumerate(self._texts, start=1)
    ]
    return f'<ol class="footnotes">{"".join(items)}</ol>'


def comparison_table(
  caption: str,
  rows: Sequence[Row],
  metrics: Sequence[str],
  doubts: dict[str, str],
  footnotes: Footnotes,
) -> str:
  """Three columns of each metric: paper, ours, difference.

  Args:
    caption: text.
    rows: see `comparison.compare`.
    metrics: of the paper.
    doubts: {metric: footnote of the column}.
    footnotes: take the marks; to be shown below.
  """
  groups = ''.join(
    f'<th scope="colgroup" colspan="3">{m}{footnotes.mark(doubts.get(m))}</th>' for m in metrics
  )
  columns = (
    '<th scope="col" class="paper">paper</th><th scope="col">ours</th>'
    '<th scope="col"><abbr title="ours minus paper">diff.</abbr></th>'
  )
  head = (
    f'<tr><td rowspan="2"></td>{groups}</tr><tr class="columns">{columns * len(metrics)}</tr>'
  )
  body = []
  for row in rows:
    if row.failure is not None:
      body.append(_line(row, _failure(row.failure, 3 * len(metrics))))
      continue
    cells = []
    for m in metrics:
      mark = footnotes.mark(row.notes.get(m))
      paper = f'{row.paper[m]:.1f}{mark}' if m in row.paper else '&ndash;'
      cells.append(f'<td class="paper">{paper}</td>{_ours(row, m)}{_difference(row, m)}')
    body.append(_line(row, ''.join(cells)))
  return table(caption, head, body)


def metrics_table(caption: str, rows: Sequence[Row], metrics: Sequence[str]) -> str:
  """One column of each metric: ours."""
  names = ''.join(f'<th scope="col">{m}</th>' for m in metrics)
  body = [
    _line(
      row,
      ''.join(_ours(row, m) for m in metrics)
      if row.failure is None
      else _failure(row.failure, len(metrics)),
    )
    for row in rows
  ]
  return table(caption, f'<tr><td></td>{names}</tr>', body)


def counts_table(caption: str, counts: dict[str, dict[str, int]]) -> str:
  """How many images were used; `counts` is {category: {'train', 'test_normal', ...}}."""
  columns = {'train': 'train', 'test_normal': 'normal', 'test_anomalous': 'anomalous'}
  lines = dict(counts)
  if len(counts) > 1:
    lines['all'] = {key: sum(c.get(key, 0) for c in counts.values()) for key in columns}
  body = [
    _line(
      Row(category, {}, {}, is_mean=category not in counts),
      ''.join(f'<td>{numbers.get(key, 0):,}</td>' for key in columns),
    )
    for category, numbers in lines.items()
  ]
  names = ''.join(f'<th scope="col">{name}</th>' for name in columns.values())
  return table(caption, f'<tr><td></td>{names}</tr>', body)


def facts_table(caption: str, facts: dict[str, Any]) -> str:
  """Names and values; the values are escaped."""
  body = [
    f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
    for name, value in facts.items()
  ]
  return (
    f'<table class="facts"><caption>{escape(caption)}</caption>'
    f'<tbody>{"".join(body)}</tbody></table>'
  )


def table(caption: str, head: str, body: Sequence[str]) -> str:
  """A table in a box of its own that scrolls sideways; `head` and `body` are HTML."""
  lines = '\n'.join(body)
  # A box that scrolls must be reachable by the keyboard.
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
    f'<table class="figures"><caption>{escape(caption)}</caption>\n'
    f'<thead>{head}</thead>\n<tbody>\n{lines}\n</tbody></table></div>'
  )


def _line(row: Row, cells: str) -> str:
  kind = ' class="mean"' if row.is_mean else ''
  return f'<tr{kind}><th scope="row">{escape(row.label)}</th>{cells}</tr>'


def _failure(reason: str, columns: int) -> str:
  return f'<td class="failed" colspan="{columns}"><p>failed: {escape(reason)}</p></td>'


def _ours(row: Row, metric: str) -> str:
  if metric not in row.ours:
    return '<td>&ndash;</td>'
  deviation = ''
  if metric in row.deviations:
    deviation = f' <span class="deviation">± {row.deviations[metric]:.1f}</span>'
  return f'<td>{row.ours[metric]:.1f}{deviation}</td>'


def _difference(row: Row, metric: str) -> str:
  if metric not in row.ours or metric not in row.paper:
    return '<td class="difference">&ndash;</td>'
  difference = subtract(row.ours[metric], row.paper[metric])
  kind = 'higher' if difference > 0 else 'lower' if difference < 0 else 'equal'
  text = f'{difference:+.1f}'.replace('-', '&minus;') if difference else '0.0'
  return f'<td class="difference {kind}">{text}</td>'
