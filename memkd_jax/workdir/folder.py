"""A run's folder: what is read and written there, and whether a run may go on in it."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import flatten
from memkd_jax.errors import UserError
from memkd_jax.files import atomic, lock, model
from memkd_jax.files.digest import DIGEST, check_result, digest
from memkd_jax.files.reading import read_json
from memkd_jax.scoring.calibration import Calibration
from memkd_jax.workdir import mirror
from memkd_jax.workdir.model import (
  Ranges,
  TrainedModel,
  read_calibration,
  read_model_folder,
  read_ranges,
  write_calibration,
  write_model,
  write_threshold,
)

ORIGIN = 'warm_start'  # the field of config.json that holds the path given as --warm-start


class Workdir:
  """Paths of a run's folder, and what is read and written there."""

  def __init__(self, root: Path | str):
    """Takes a folder, which may be missing.

    Args:
      root: a local folder, `mirror.opened` where it is to be written to; of a place in a
        bucket the models are read, see `mirror.copy_of_models`.
    """
    self.root = mirror.copy_of_models(root)

  @contextmanager
  def locked(self) -> Iterator[None]:
    """Keeps other processes out, and removes what killed ones left half written.

    Raises:
      UserError: another process is at work here, or the folder cannot be written.
    """
    with lock.hold(self.root):
      # Not all folders below: there may be another run among them.
      below = ('*/seed_*', 'anomaly_maps/seed_*/*/test/*')
      folders = [folder for pattern in below for folder in self.root.glob(pattern)]
      atomic.remove_orphans([self.root, *folders])
      yield

  def category(self, name: str, seed: int) -> Path:
    """The folder of one task."""
    return self.root / name / f'seed_{seed}'

  def maps(self, name: str, seed: int) -> Path:
    """The folder of one task's maps, in the layout of MVTec's evaluation script."""
    return self.root / 'anomaly_maps' / f'seed_{seed}' / name

  def check_exists(self) -> None:
    """Raises UserError where there is no run to evaluate."""
    if not (self.root / 'config.json').exists():
      raise UserError(f'{self.root} holds no run to evaluate; name its folder with --workdir.')

  def read_of_model(self, field: str) -> str | None:
    """`model.field` of the run, or the model alone, that is there; None where there is none."""
    try:
      if model.exists(self.root):
        return str(model.read_facts(self.root)['config']['model'][field])
      return str(read_json(self.root / 'config.json')['model'][field])
    except (OSError, ValueError, KeyError, TypeError):
      return None  # `claim` says what is wrong with it

  def read_roi(self) -> str | None:
    """The `data.roi` of the run that is there; None where there is no run."""
    try:
      data = read_json(self.root / 'config.json')['data']
    except (OSError, ValueError, KeyError, TypeError):
      return None  # `claim` says what is wrong with it
    return str(data.get('roi', ''))

  def read_regions(self) -> Iterator[np.ndarray]:
    """The regions of interest of the models that are there, one after the other."""
    for name, seed in self.models():
      region = self.read_model(name, seed).region
      if region is not None:
        yield region

  def read_origin(self) -> str | None:
    """The --warm-start of the run that is there; None where there is none."""
    try:
      origin = read_json(self.root / 'config.json').get(ORIGIN)
    except (OSError, ValueError, AttributeError):
      return None  # `claim` says what is wrong with it
    return None if origin is None else str(origin)

  def claim(
    self,
    config: ConfigDict,
    free: Collection[str],
    rescored: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes config.json, or checks that the one there would give the same.

    Args:
      config: the run's config, as `methods.resolve` returns it.
      free: names of the fields that may differ, 'section.field'.
      rescored: names of further fields that may differ; where they do, the results that are
        there are removed, since all results of a folder are of its config.json.
      defaults: values of fields which a config.json that is older than they are lacks.

    Raises:
      UserError: other fields differ; the message shows them. Or the folder cannot be
        written.
    """
    path = self.root / 'config.json'
    new = json.loads(config.to_json())
    try:
      if path.exists() and self._differences(
        path, new, {*free, *rescored}, defaults or {}
      ) - set(free):
        for result in self.root.glob('*/seed_*/result.json'):
          result.unlink()
      atomic.write_json(path, new | {DIGEST: digest(new)})
    except OSError as error:
      where = f'{path}, ' if path.exists() else ''
      raise UserError(
        f'Cannot use {self.root} as --workdir: {where}{error.strerror}.'
      ) from error

  def write_model(self, trained: TrainedModel) -> None:
    """Writes a trained model, complete or not at all; a joint one once for all categories."""
    others: list[Path] = []
    if trained.config.train.get('scope', 'category') == 'joint':
      others = [self.category(*which) for which in self.models() if which[1] == trained.seed]
    write_model(self.category(trained.name, trained.seed), trained, others)

  def has_model(self, name: str, seed: int) -> bool:
    """Whether a task's training has ended."""
    return model.exists(self.category(name, seed))

  def read_model(self, name: str, seed: int) -> TrainedModel:
    """What `write_model` wrote; errors as `read_model_folder`."""
    return read_model_folder(self.category(name, seed))

  def read_calibration(self, name: str, seed: int) -> Calibration | None:
    """See `workdir.model.read_calibration`."""
    return read_calibration(self.category(name, seed))

  def read_ranges(self, name: str, seed: int) -> Ranges | None:
    """See `workdir.model.read_ranges`."""
    return read_ranges(self.category(name, seed))

  def write_calibration(self, name: str, seed: int, calibration: Calibration | None) -> None:
    """See `write_calibration`."""
    write_calibration(self.category(name, seed), calibration)

  def write_threshold(self, name: str, seed: int, threshold: float) -> None:
    """See `write_threshold`."""
    write_threshold(self.category(name, seed), threshold)

  def read_result(self, name: str, seed: int) -> dict[str, Any] | None:
    """What `write_result` wrote, None where the task is not finished."""
    path = self.category(name, seed) / 'result.json'
    if not path.exists():
      return None
    try:
      return check_result(read_json(path))
    except ValueError as error:
      raise UserError(f'{path} is damaged ({error}); remove it to score again.') from error

  def write_result(self, name: str, seed: int, result: dict[str, Any]) -> None:
    """Marks a task as finished.

    Args:
      name: the task's name, which its folder has as well.
      seed: the task's seed, which its folder is named after.
      result: JSON values, 'metrics' and 'counts' among them.
    """
    signed = result | {DIGEST: digest(result)}
    atomic.write_json(self.category(name, seed) / 'result.json', signed)

  def forget(self, name: str, seed: int) -> None:
    """Removes a task's model, its checkpoints and its result, so that it is fitted anew."""
    folder = self.category(name, seed)
    for file in ('result.json', model.FACTS):  # without these nothing there counts
      (folder / file).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)

  def finished(self, seed: int) -> list[str]:
    """Names of the tasks that have a result, sorted."""
    return sorted(p.parent.parent.name for p in self.root.glob(f'*/seed_{seed}/result.json'))

  def models(self) -> list[tuple[str, int]]:
    """(name, seed) of all trained models, sorted."""
    folders = [path.parent for path in self.root.glob(f'*/seed_*/{model.FACTS}')]
    seeds = [folder.name.removeprefix('seed_') for folder in folders]
    return sorted(
      (folder.parent.name, int(seed))
      for folder, seed in zip(folders, seeds, strict=True)
      if seed.isdecimal()
    )

  def _differences(
    self,
    path: Path,
    new: dict[str, Any],
    free: Collection[str],
    defaults: Mapping[str, Any],
  ) -> set[str]:
    """Names of the fields that differ; raises UserError where one of them is not `free`."""
    try:
      old = read_json(path)
      if old.pop(DIGEST) != digest(old):
        raise ValueError('its checksum is wrong')
      old = json.loads(json.dumps(dict(defaults))) | flatten(old)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
      raise UserError(f'{path} is damaged ({error}); choose another --workdir.') from error
    flat = flatten(new)
    differing = {f for f in flat if old.get(f) != flat[f]}
    differing |= {f for f in old.keys() - flat.keys() if f not in defaults}
    shown = [
      f'{field} is {json.dumps(old.get(field))} there and {json.dumps(flat.get(field))} now'
      for field in sorted(differing - set(free))
    ]
    if shown:
      raise UserError(
        f'{self.root} holds a run with another config: {"; ".join(shown)}. '
        'Choose another --workdir, or give the same values.'
      )
    return differing
