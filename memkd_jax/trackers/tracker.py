"""What a tracker is told, and of which model."""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.reading import parse_json

IDS = 'trackers.json'  # of a model's folder: what it is called by each tracker


@dataclasses.dataclass(frozen=True)
class Place:
  """Which model a tracker is told of.

  Attributes:
    folder: folder of the model, where a tracker that writes files writes them.
    experiment: name of its run, under which trackers put the run's models together.
    name: name of the model in its run, such as 'bottle/seed_0'.
    step: the step at which its training starts or resumes; what was told of later ones
      before is void, and is told again.
    fields: the config, {'section.field': value}.
  """

  folder: Path
  experiment: str
  name: str
  step: int
  fields: Mapping[str, Any]

  @classmethod
  def of(cls, folder: Path, step: int, fields: Mapping[str, Any]) -> 'Place':
    """The place of a model in the run that its folder belongs to.

    Args:
      folder: folder of the model.
      step: the step at which its training starts or resumes.
      fields: the config, {'section.field': value}.
    """
    folder = folder.absolute()
    # A run's folder has its config; a training that stands alone is a run of its own.
    root = next((p for p in folder.parents if (p / 'config.json').exists()), folder.parent)
    return cls(folder, root.name, folder.relative_to(root).as_posix(), step, fields)

  def read_id(self, tracker: str) -> str | None:
    """What the model is called by a tracker that numbers its runs; None if not yet known."""
    path = self.folder / IDS
    found = parse_json(path.read_text()).get(tracker) if path.exists() else None
    return found if isinstance(found, str) else None

  def write_id(self, tracker: str, identifier: str) -> None:
    """Notes it, so that a resumed training, and the evaluation, go on under it."""
    path = self.folder / IDS
    known = parse_json(path.read_text()) if path.exists() else {}
    atomic.write_text(path, json.dumps(known | {tracker: identifier}) + '\n')

  def texts(self) -> dict[str, str]:
    """The fields as texts, for trackers that know no tuples."""
    return {name: str(value) for name, value in self.fields.items()}


class Tracker(Protocol):
  """Takes what a model's training and evaluation tell; made as `Class(place)`.

  It is made once for the training and once more for the evaluation, perhaps in another
  process. A class may have a static method `check()`, which raises UserError, before anything
  is trained, where a package is missing or a server is away.
  """

  def __init__(self, place: Place):
    """Opens it for the model of a place."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the losses and costs of one training step; steps increase."""

  def finish(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
    """Takes what the evaluation found.

    Args:
      figures: the figures by name, {'I-AUC': ..., 'fit_seconds': ...}, finite.
      pictures: the pictures by name, {'figure': a PNG file, ...}.
    """

  def close(self) -> None:
    """Sends what is still to be sent."""


def import_package(name: str, tracker: str) -> Any:
  """The package that a tracker needs.

  Args:
    name: the package's name, as it is imported.
    tracker: the tracker's name, which is also that of the extra that installs the package.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f'--config.train.trackers={tracker} needs: pip install "memkd_jax[{tracker}]".'
    ) from error
