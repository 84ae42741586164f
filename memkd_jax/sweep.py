"""Named variants of one config, run one after the other: an ablation, or a comparison."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.config import AUTO_DTYPE, Field, choose_dtype, get_value, section_of, set_value
from memkd_jax.errors import UserError, explain, is_disk_full
from memkd_jax.files import atomic
from memkd_jax.report import paper
from memkd_jax.report.variants import sweep_table
from memkd_jax.report.variants_page import write_page
from memkd_jax.run import run_config
from memkd_jax.runtime import hosts
from memkd_jax.teachers.kept_features import KeptFeatures
from memkd_jax.workdir import Workdir, opened


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
    config: the config that all variants share, with `sweep.variants`.
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
    configs = variants(config)
  with opened(workdir) as root, hosts.held_by_main(Workdir(root).locked()):
    configs = _with_one_dtype(configs, root)
    run_one = functools.partial(
      run_config, mode=mode, dump_maps=dump_maps, force=force, kept=KeptFeatures()
    )
    return _run_all(config.sweep.paper, configs, root, run_one)


def _with_one_dtype(configs: dict[str, ConfigDict], root: Path) -> dict[str, ConfigDict]:
  """The variants with one dtype in place of `auto`: that of the first that is there already."""
  open_ones = [name for name, variant in configs.items() if variant.model.dtype == AUTO_DTYPE]
  if not open_ones:
    return configs

  def decide() -> str:
    folders = (Workdir(root / folder_name(name)) for name in open_ones)
    there = [dtype for folder in folders if (dtype := folder.read_of_model('dtype'))]
    return there[0] if there else choose_dtype()[0]

  dtype = hosts.on_main(decide)
  print(f'Computing in {dtype} (model.dtype=auto).', flush=True)
  for name in open_ones:
    configs[name] = configs[name].copy_and_resolve_references()
    configs[name].model.dtype = dtype
  return configs


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
      write_page(root, summary, {name: folder_name(name) for name in configs})
  print('\n' + table, flush=True)
  return summary


def variants(config: ConfigDict) -> dict[str, ConfigDict]:
  """The config of each variant, by name.

  Args:
    config: the config that all variants share. Its `sweep.variants` is ((name, ((field, value),
      ...)), ...); the field method.name makes a variant one of another method, see
      `_of_method`.

  Raises:
    UserError: a field does not exist or has another type, two variants would share a folder,
      or no such table of the paper is known.
  """
  configs: dict[str, ConfigDict] = {}
  if config.sweep.paper not in ('', *paper.ABLATIONS):
    raise UserError(
      f'--config.sweep.paper={config.sweep.paper[:100]}: give one of '
      f'{", ".join(paper.ABLATIONS)}, or none.'
    )
  for name, overrides in _checked(config.sweep.variants):
    variant = _of_method(config, overrides.pop('method.name', config.method.name))
    variant.sweep.variants, variant.sweep.given, variant.sweep.paper = (), (), ''
    variant.lock()  # so that no new field appears
    try:
      for field in methods.fields(variant.method.name):
        if field.also and field.name in overrides:
          section, last = section_of(variant, field.name)
          with section.ignore_type():
            section[last] = overrides.pop(field.name)
      variant.update_from_flattened_dict(overrides)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise UserError(f'--config.sweep.variants: {name} cannot be made: {error}') from error
    folder = folder_name(name)
    if folder in ('.', '..', *map(folder_name, configs)):
      raise UserError(
        f'--config.sweep.variants: {name} would not have the folder {folder} to itself; '
        'rename it.'
      )
    configs[name] = variant
  return configs


def _of_method(config: ConfigDict, name: str) -> ConfigDict:
  """A config for another method, with all that differs from the defaults of this one's.

  So is what the command line sets, whatever its value. What a method has no field for is left
  out, and so are the fields of `method`, and those that make one method of a family another.
  """
  if name == config.method.name:
    return config.copy_and_resolve_references()
  variant = methods.get_config(config.data.dataset, name)
  here, there = (_by_name(methods.fields(method)) for method in (config.method.name, name))
  same_family = here.keys() == there.keys()
  for field in here.keys() & there.keys():
    value = get_value(config, field)
    given = value != here[field] or field in config.sweep.given
    distinguishes = same_family and here[field] != there[field]
    if given and not distinguishes and not field.startswith('method.'):
      set_value(variant, field, value)
  return variant


def _by_name(fields: Iterable[Field]) -> dict[str, Any]:
  return {field.name: field.default for field in fields}


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
