"""Figures and tables of what was timed turn by turn."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from benchmark_ours import ONE
from turns import Candidate, Turn

from memkd_jax.report.results import markdown

_COLUMNS = {
  'images_per_second': ('img/s', '{:.4g}'),
  'p50_ms': ('p50 ms', '{:.1f}'),
  'p95_ms': ('p95 ms', '{:.1f}'),
  'gflop_per_image': ('GFLOP/img', '{:.1f}'),
  'share_of_peak': ('of peak', '{:.0%}'),
  'joules_per_image': ('J/img', '{:.3g}'),
  'compile_s': ('compile s', '{:.1f}'),
  'temporary_MB': ('temporary MB', '{:.0f}'),
}


def figures(
  candidates: Sequence[Candidate],
  turns: Mapping[str, Sequence[Turn]],
  peaks: Mapping[tuple[str, str], float],
  devices: int,
) -> list[dict[str, Any]]:
  """A line for each candidate that took its turns, those of the same work together.

  Args:
    candidates: all.
    turns: see `take_turns`.
    peaks: FLOP per second of a device, by who measured it and dtype.
    devices: that share the work of ours.

  Returns:
    JSON values: medians over turns; p50 and p95 over all calls of all turns. The share of the
    peak is of the highest that anybody measured in the candidate's dtype.
  """
  works = list(dict.fromkeys(candidate.work for candidate in candidates))
  lines = []
  for candidate in sorted(candidates, key=lambda c: works.index(c.work)):
    if candidate.name not in turns:
      continue
    taken = turns[candidate.name]
    rate = statistics.median(turn.rate for turn in taken)
    line: dict[str, Any] = {
      'name': candidate.name,
      'work': candidate.work,
      'side': candidate.side,
      'images_per_second': rate,
      'turns': [turn.rate for turn in taken],
    }
    if candidate.work == ONE:
      times = [1000 * seconds for turn in taken for seconds in turn.times]
      p50, p95 = np.quantile(times, (0.5, 0.95))
      line |= {'p50_ms': float(p50), 'p95_ms': float(p95)}
    if candidate.flop is not None:
      # Counted is what one device does.
      line['gflop_per_image'] = candidate.flop * devices / candidate.items / 1e9
      peak = max(value for (_, dtype), value in peaks.items() if dtype == candidate.dtype)
      line['share_of_peak'] = candidate.flop * rate / candidate.items / peak
    joules = [turn.joules for turn in taken if turn.joules is not None]
    if joules:
      line['joules_per_image'] = statistics.median(joules)
    lines.append(line | candidate.facts)
  return lines


def ratios(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """How many times as fast each of ours is as each other side at the same work.

  Returns:
    {name of ours: {other side: ratio of the medians}}, without those that have no other.
  """
  found: dict[str, dict[str, float]] = {}
  for line in lines:
    if line['side'].startswith('ours'):
      against = {
        other['side']: line['images_per_second'] / other['images_per_second']
        for other in lines
        if other['work'] == line['work'] and not other['side'].startswith('ours')
      }
      if against:
        found[line['name']] = against
  return found


def table(lines: Sequence[Mapping[str, Any]]) -> str:
  """The figures in Markdown, with the columns that have any."""
  used = [key for key in _COLUMNS if any(key in line for line in lines)]
  rows = [
    [line['name'], *(_COLUMNS[k][1].format(line[k]) if k in line else '' for k in used)]
    for line in lines
  ]
  return markdown(['', *(_COLUMNS[key][0] for key in used)], rows)


def ratio_table(found: Mapping[str, Mapping[str, float]]) -> str:
  """The ratios in Markdown: ours below each other, the other sides beside each other."""
  sides = list(dict.fromkeys(side for against in found.values() for side in against))
  rows = [
    [name, *(f'{against[side]:.2f}x' if side in against else '' for side in sides)]
    for name, against in found.items()
  ]
  return markdown(['against', *sides], rows)
