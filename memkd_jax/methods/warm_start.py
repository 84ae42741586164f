"""Warm starts: a training that goes on from the trained model of another run."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.config import flatten, of_older
from memkd_jax.errors import UserError
from memkd_jax.files import model
from memkd_jax.methods.base import Method, Start, Task
from memkd_jax.runtime import hosts
from memkd_jax.workdir import UNFOLDING, damage_explained, read_model_in_all

# Fields beside those of the model in which both must agree.
_COUNTING = ('method.name', 'data.image_size', 'data.tile_models')
_PATH = 'model.teacher_weights'  # of which the content counts


@dataclasses.dataclass(frozen=True)
class WarmStart:
  """Where the trained models lie that the trainings of a run go on from.

  Attributes:
    root: a run's folder, with a model for each task; or a folder that holds one model, from
      which all tasks go on.
    config: the resolved config of the run.
    teacher_sha256: the digest of its teacher's weights.
  """

  root: Path
  config: ConfigDict
  teacher_sha256: str

  def check(self, method: Method, tasks: Iterable[Task]) -> None:
    """Looks at all models before anything is done.

    Raises:
      UserError: the method learns anew in any case, or there is no model from which a task's
        training can go on.
    """
    if not method.warm_starts:
      raise UserError(
        f'--warm-start={self.root}: {method.name} learns anew from the images in any case; '
        'leave the flag out.'
      )
    if self.config.data.get('tile_models', 'one') != 'one':
      raise UserError(
        f'--warm-start={self.root}: models for each place of a grid '
        '(--config.data.tile_models=position) learn anew in any case; leave the flag out.'
      )
    if self.config.train.get('scope', 'category') != 'category':
      raise UserError(
        f'--warm-start={self.root}: a model of all categories (--config.train.scope=joint) '
        'learns anew in any case; leave the flag out.'
      )
    for task in tasks:
      self.digest(task)

  def digest(self, task: Task) -> str:
    """The digest of a task's model, which does not read its arrays.

    Raises:
      UserError: there is no model, it is damaged, or it is another one than the run trains.
    """
    return hosts.on_main(lambda: self._checked_digest(task))

  def start(self, task: Task) -> Start:
    """Reads a task's model; errors as `digest`."""
    digest, folder = self.digest(task), self._folder(task)
    trained = read_model_in_all(folder)
    return Start(trained.params, trained.unfolding or {}, digest, folder)

  def _folder(self, task: Task) -> Path:
    """Of the task's model; not seen by all processes."""
    of_run = self.root / task.name / f'seed_{task.seed}'
    return self.root if model.exists(self.root) else of_run

  def _checked_digest(self, task: Task) -> str:
    folder = self._folder(task)
    if not model.exists(folder):
      raise UserError(
        f'--warm-start={self.root} holds no trained model of {task.name} with seed '
        f'{task.seed}; name the folder of a run that does, or a folder with {model.FACTS} and '
        f'{model.TENSORS}.'
      )
    with damage_explained(folder):
      facts, sections = model.read_facts(folder), model.sections(folder)
    self._check_fields(folder, facts.get('config'))
    if facts.get('teacher_sha256') != self.teacher_sha256:
      raise UserError(
        f'--warm-start: the teacher of {folder} is another (sha256 '
        f'{str(facts.get("teacher_sha256"))[:8]} there and {self.teacher_sha256[:8]} now); '
        f'name its file with --config.{_PATH}=FILE.'
      )
    if UNFOLDING not in sections:
      raise UserError(
        f'--warm-start: {folder} is of an earlier release, which kept nothing for a further '
        'training; train without --warm-start.'
      )
    return model.tensors_digest(facts)

  def _check_fields(self, folder: Path, there: Any) -> None:
    """Raises UserError where a field of the model itself differs."""
    fields = of_older(methods.fields(self.config.method.name))
    old = json.loads(json.dumps(fields)) | flatten(there if isinstance(there, dict) else {})
    new = flatten(json.loads(self.config.to_json()))
    for name in ('method.name', *sorted(new)):
      counts = name in _COUNTING or name.startswith('model.')
      if counts and name != _PATH and old.get(name) != new[name]:
        raise UserError(
          f'--warm-start: {name} of {folder} is {json.dumps(old.get(name))}, and '
          f'{json.dumps(new[name])} now; give the same value, or train without --warm-start.'
        )
