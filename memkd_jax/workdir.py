"""A run's folder: what lies where, and whether a run may go on in it.

config.json                              the resolved config
<task>/seed_<seed>/model.safetensors     the trained model: its arrays
<task>/seed_<seed>/model.json            what they mean, config, threshold; written last
<task>/seed_<seed>/checkpoints/          the training state, until the model is there
<task>/seed_<seed>/metrics.jsonl         the losses, one object a line
<task>/seed_<seed>/result.json           figures and counts; written last
<task>/seed_<seed>/figure.png            images, ground truth, maps
<task>/seed_<seed>/curves.png            ROC and the like, histogram of the scores
<task>/seed_<seed>/memory.*              how the memories are used, where there are any
anomaly_maps/seed_<seed>/<task>/         test/<defect>/<id>.tiff, with --dump-maps
results.json, results.md, report.html    all tasks together
.lock                                    held by the one process that may write here

A task is a category, as a rule.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax.config import flatten
from memkd_jax.data import bit_depth
from memkd_jax.errors import UserError
from memkd_jax.files import atomic, lock, model
from memkd_jax.files.digest import DIGEST, check_result, digest
from memkd_jax.files.reading import read_json
from memkd_jax.runtime import hosts
from memkd_jax.scoring.calibration import Calibration, parse_calibration


@dataclasses.dataclass(frozen=True)
class TrainedModel:
  """All that scoring needs but the teacher.

  Attributes:
    name: the task's name.
    seed: the seed that it was trained with.
    config: the resolved config.
    teacher_sha256: digest of the teacher's weights, or 'random'.
    params: what the method has learned, nested dicts of numpy arrays.
    train_images: the number of images that it was trained on.
    train_sha256: digest of these images.
    diagnosis: see `methods.base.Fitted`.
    calibration: what held-out normal images look like; None where none were held out.
    threshold: of the image score, set by hand; None where it follows from the calibration.
  """

  name: str
  seed: int
  config: ConfigDict
  teacher_sha256: str
  params: dict[str, Any]
  train_images: int
  train_sha256: str
  diagnosis: dict[str, Any]
  calibration: Calibration | None
  threshold: float | None = None


class Workdir:
  """Paths of a run's folder, and what is read and written there."""

  def __init__(self, root: Path | str):
    """Takes a local folder, which may be missing.

    Raises:
      UserError: it is of a bucket, where nothing can be locked, appended or renamed.
    """
    if '://' in str(root):
      raise UserError(
        f'--workdir={root}: a run needs a local folder; mount the bucket, or copy the folder '
        'there when the run has ended.'
      )
    self.root = Path(root).expanduser()

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

  def read_backbone(self) -> str | None:
    """The teacher's architecture in the run that is there; None where there is none."""
    try:
      return str(read_json(self.root / 'config.json')['model']['backbone'])
    except (OSError, ValueError, KeyError, TypeError):
      return None  # `claim` says what is wrong with it

  def claim(
    self,
    config: ConfigDict,
    free: Collection[str],
    rescored: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes config.json, or checks that the one there would give the same.

    Args:
      config: the resolved config.
      free: names of the fields that may differ, 'section.field'.
      rescored: further ones that may differ; where they do, the results that are there are
        removed, since all results of a folder are of its config.json.
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
    """Writes a trained model, complete or not at all."""
    facts = {field.name: getattr(trained, field.name) for field in dataclasses.fields(trained)}
    params = facts.pop('params')
    facts['config'] = json.loads(trained.config.to_json())
    facts['calibration'] = _calibration_json(trained.calibration)
    model.write(self.category(trained.name, trained.seed), params, facts)

  def has_model(self, name: str, seed: int) -> bool:
    """Whether a task's training has ended."""
    return model.exists(self.category(name, seed))

  def read_model(self, name: str, seed: int) -> TrainedModel:
    """What `write_model` wrote; errors as `read_model_folder`."""
    return read_model_folder(self.category(name, seed))

  def read_calibration(self, name: str, seed: int) -> Calibration | None:
    """The calibration of a model; None where there is no model, or it has none.

    Raises:
      UserError: the model is damaged.
    """
    folder = self.category(name, seed)
    if not model.exists(folder):
      return None
    with _damage_explained(folder):
      return _calibration(model.read_facts(folder))

  def read_bit_depth(self, name: str, seed: int) -> str | None:
    """The `data.bit_depth` that a model was trained with; None where there is no model.

    Raises:
      UserError: the model is damaged.
    """
    folder = self.category(name, seed)
    if not model.exists(folder):
      return None
    with _damage_explained(folder):
      config = _with_tuples(model.read_facts(folder)['config'])
    return str(bit_depth.of_config(config))

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
      name: the task's name.
      seed: the run's seed.
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


class SharedWorkdir:
  """A `Workdir` that only the main one of several processes reads and writes.

  The folder need not be seen by the others: what is read there is sent to them. All
  processes make the same calls in the same order, and an error of one is one of all.

  Attributes:
    own: the folder, for what the main process alone does.
  """

  def __init__(self, root: Path | str):
    """See `Workdir`."""
    with hosts.raise_together():
      self.own = Workdir(root)

  def locked(self) -> AbstractContextManager[None]:
    """See `Workdir.locked`."""
    return hosts.held_by_main(self.own.locked())

  def check_exists(self) -> None:
    """See `Workdir.check_exists`."""
    hosts.on_main(self.own.check_exists)

  def claim(
    self,
    config: ConfigDict,
    free: Collection[str],
    rescored: Collection[str],
    defaults: Mapping[str, Any],
  ) -> None:
    """See `Workdir.claim`."""
    hosts.on_main(lambda: self.own.claim(config, free, rescored, defaults))

  def category(self, name: str, seed: int) -> Path:
    """See `Workdir.category`."""
    return self.own.category(name, seed)

  def read_images(self, name: str, seed: int) -> dict[str, dict[str, str]] | None:
    """Digests of the images that a result is of, by split; None where there is no result."""

    def read() -> dict[str, dict[str, str]] | None:
      result = self.own.read_result(name, seed)
      return None if result is None else result.get('images', {})

    return hosts.on_main(read)

  def forget(self, name: str, seed: int) -> None:
    """See `Workdir.forget`."""
    hosts.on_main(lambda: self.own.forget(name, seed))

  def read_bit_depth(self, name: str, seed: int) -> str | None:
    """See `Workdir.read_bit_depth`."""
    return hosts.on_main(lambda: self.own.read_bit_depth(name, seed))

  def has_model(self, name: str, seed: int) -> bool:
    """See `Workdir.has_model`."""
    return hosts.on_main(lambda: self.own.has_model(name, seed))

  def read_model(self, name: str, seed: int) -> TrainedModel:
    """See `Workdir.read_model`."""
    folder = self.own.category(name, seed)
    content = b''
    with hosts.raise_together():
      facts: dict[str, Any] = {}
      if hosts.is_main():
        with _damage_explained(folder):
          facts, content = model.read_facts(folder), model.read_bytes(folder)
    facts, content = hosts.exchange(facts)[0], hosts.bytes_from_main(content)
    with hosts.raise_together():
      return _parse_model(folder, facts, content)

  def write_model(self, trained: TrainedModel) -> None:
    """See `Workdir.write_model`."""
    hosts.on_main(lambda: self.own.write_model(trained))

  def write_result(self, name: str, seed: int, result: dict[str, Any]) -> None:
    """See `Workdir.write_result`."""
    hosts.on_main(lambda: self.own.write_result(name, seed, result))


def write_calibration(folder: Path, calibration: Calibration | None) -> None:
  """Gives a model another calibration, and leaves the rest but a threshold by hand as it is.

  Args:
    folder: that holds the model's two files.
    calibration: the new one, None for none.

  Raises:
    UserError: there is no model, or it is damaged.
  """
  _change(folder, {'calibration': _calibration_json(calibration), 'threshold': None})


def write_threshold(folder: Path, threshold: float) -> None:
  """Gives a model a threshold by hand; its calibration stays, for p-values.

  Args:
    folder: that holds the model's two files.
    threshold: of the image score, finite.

  Raises:
    UserError: there is no model, or it is damaged.
  """
  _change(folder, {'threshold': threshold})


def _change(folder: Path, facts: dict[str, Any]) -> None:
  with _damage_explained(folder):
    known = model.read_facts(folder)
  model.write_facts(folder, known | facts)


def read_model_folder(folder: Path) -> TrainedModel:
  """Reads a trained model from the folder that holds its two files.

  Raises:
    UserError: there is none, or it is damaged.
  """
  with _damage_explained(folder):
    facts, content = model.read_facts(folder), model.read_bytes(folder)
  return _parse_model(folder, facts, content)


def _parse_model(folder: Path, facts: dict[str, Any], content: bytes) -> TrainedModel:
  with _damage_explained(folder):
    try:
      return TrainedModel(
        name=str(facts['name']),
        seed=int(facts['seed']),
        config=_with_tuples(facts['config']),
        teacher_sha256=str(facts['teacher_sha256']),
        params=model.parse_params(content, facts),
        train_images=int(facts['train_images']),
        train_sha256=str(facts['train_sha256']),
        diagnosis=dict(facts['diagnosis']),
        calibration=_calibration(facts),
        threshold=_threshold(facts),
      )
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(f'it lacks {error}') from error


@contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
  try:
    yield
  except (ValueError, RecursionError, FileNotFoundError) as error:
    if not model.exists(folder):
      raise UserError(
        f'There is no trained model in {folder}; train without --mode=evaluate.'
      ) from error
    raise UserError(
      f'The trained model in {folder} is damaged ({error}); remove {folder / model.FACTS} and '
      'run the command that trained it again.'
    ) from error


def _calibration(facts: dict[str, Any]) -> Calibration | None:
  content = facts.get('calibration')
  return None if content is None else parse_calibration(content)


def _threshold(facts: dict[str, Any]) -> float | None:
  value = facts.get('threshold')
  if value is None:
    return None
  if type(value) not in (int, float) or not math.isfinite(value):
    raise ValueError('its threshold is no number')
  return float(value)


def _calibration_json(calibration: Calibration | None) -> dict[str, Any] | None:
  return None if calibration is None else calibration.to_json()


def _with_tuples(values: Any) -> ConfigDict:
  """A config from JSON, where its tuples are lists."""

  def convert(value: Any) -> Any:
    if isinstance(value, dict):
      return {name: convert(item) for name, item in value.items()}
    return tuple(map(convert, value)) if isinstance(value, list) else value

  return ConfigDict(convert(values))
