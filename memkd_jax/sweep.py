"""An ablation: named variants of one config, run one after the other, and their table."""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from memkd_jax.errors import UserError, explain, is_disk_full
from memkd_jax.files import atomic
from memkd_jax.report import paper
from memkd_jax.report.results import figure_cell, markdown
from memkd_jax.run import run_config
from memkd_jax.runtime import hosts
from memkd_jax.scoring.figures import METRICS
from memkd_jax.workdir import Workdir


def run_sweep(
  config: ConfigDict,
  workdir: Path | str,
  mode: str = 'train',
  dump_maps: bool = False,
  force: bool = False,
) -> dict[str, Any]:
  """Runs each variant in a folder of its own; finished ones are skipped.

  A variant that fails is reported, and the others still run.

  Args:
    config: with `sweep.variants`.
    workdir: holds a run's folder for each variant, and sweep.json and sweep.md.
    mode: see `run_config`.
    dump_maps: see `run_config`.
    force: see `run_config`.

  Returns:
    {'paper', 'variants': {name: results or None}, 'failed': {name: reason}}.

  Raises:
    UserError: a variant overrides a field that is not there, or another process is
      at work in the folder.
    OSError: the disk is full.
  """
  with hosts.raise_together():
    folder = Workdir(workdir)
    configs = variants(config)
  with hosts.held_by_main(folder.locked()):
    run_one = functools.partial(run_config, mode=mode, dump_maps=dump_maps, force=force)
    return _run_all(config.sweep.paper, configs, folder.root, run_one)


def _run_all(
  paper_table: str,
  configs: dict[str, ConfigDict],
  root: Path,
  run_one: Callable[[ConfigDict, Path], dict[str, Any]],
) -> dict[str, Any]:
  """The loop over variants, in a folder that belongs to this run."""
  results: dict[str, Any] = {}
  failed: dict[str, str] = {}
  for number, (name, variant) in enumerate(configs.items(), start=1):
    print(f'\n{name} ({number} of {len(configs)})', flush=True)
    results[name] = None
    try:
      results[name] = run_one(variant, root / folder_name(name))
      failed |= {f'{name}, {c}': reason for c, reason in results[name]['failed'].items()}
    except hosts.shared_errors() as error:
      if is_disk_full(error):
        raise
      failed[name] = explain(error)
      print(f'{name} failed: {failed[name]}', flush=True)
    # A variant's programs are of no use to the next. On CPU each training keeps some
    # thousand mappings of memory, of which Linux grants a process 65,530; beyond, it crashes.
    jax.clear_caches()
  summary = {'paper': paper_table, 'variants': results, 'failed': failed}
  table = sweep_table(summary)
  with hosts.raise_together():
    if hosts.is_main():
      atomic.write_json(root / 'sweep.json', summary)
      atomic.write_text(root / 'sweep.md', table)
  print('\n' + table, flush=True)
  return summary


def variants(config: ConfigDict) -> dict[str, ConfigDict]:
  """The config of each variant, by name.

  Args:
    config: whose `sweep.variants` is ((name, ((field, value), ...)), ...).

  Raises:
    UserError: a field does not exist or has another type, or no such table of the
      paper is known.
  """
  configs: dict[str, ConfigDict] = {}
  if config.sweep.paper not in ('', *paper.ABLATIONS):
    raise UserError(
      f'--config.sweep.paper={config.sweep.paper[:100]}: give one of '
      f'{", ".join(paper.ABLATIONS)}, or none.'
    )
  for name, overrides in _checked(config.sweep.variants):
    variant = config.copy_and_resolve_references()
    variant.sweep.variants, variant.sweep.paper = (), ''
    variant.lock()  # so that no new field appears
    try:
      variant.update_from_flattened_dict(overrides)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise UserError(f'--config.sweep.variants: {name} cannot be made: {error}') from error
    if name in configs:
      raise UserError(f'--config.sweep.variants: there are two variants {name}; rename one.')
    configs[name] = variant
  return configs


def _checked(variants: tuple[Any, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
  """The variants; raises UserError where they are not ((name, ((field, value), ...)), ...)."""
  for variant in variants:
    try:
      name, overrides = variant
      fields = dict(overrides)
      if not all(isinstance(text, str) and text for text in (name, *fields)):
        raise TypeError('names are not texts')
    except (TypeError, ValueError) as error:
      raise UserError(
        f'--config.sweep.variants: {str(variant)[:100]} is not a name and its fields ({error}).'
      ) from error
    yield name, fields


def folder_name(name: str) -> str:
  """A variant's folder: its name with what folders should not have replaced."""
  return re.sub(r'[^\w+.-]+', '_', name)


def sweep_table(summary: dict[str, Any]) -> str:
  """The variants as Markdown: means over the categories, the paper's beside them.

  Args:
    summary: what `run_sweep` returns.
  """
  printed = paper.load_rows(summary['paper']) if summary['paper'] else {}
  compared = list(next(iter(printed.values()), {}))
  means = {name: _mean(results) for name, results in summary['variants'].items()}
  columns = [m for m in METRICS if any(m in figures for figures, _ in means.values())]
  header, rows = ['variant (%)'], []
  for metric in columns:
    header += [metric, 'paper'] if metric in compared else [metric]
  for name, (figures, deviations) in means.items():
    row = [name]
    for metric in columns:
      row.append(figure_cell(metric, figures, deviations))
      if metric in compared:
        row.append(f'{printed[name][metric]:.1f}' if name in printed else '-')
    rows.append(row)
  lines = [markdown(header, rows), '']
  lines += [f'{name} failed: {reason}' for name, reason in summary['failed'].items()]
  if printed:
    lines.append(
      'The paper has means over the 15 categories of MVTec AD, and wide_resnet50_2 where no '
      'backbone is named.'
    )
  notes = {n: None for r in summary['variants'].values() if r for n in r['notes']}
  return '\n'.join([*lines, *notes]) + '\n'


def _mean(results: dict[str, Any] | None) -> tuple[dict[str, float], dict[str, float]]:
  """Mean over the categories, and its deviation over the seeds."""
  if results is None or results['mean'] is None:
    return {}, {}
  return results['mean'], results['deviations'].get('mean', {})
