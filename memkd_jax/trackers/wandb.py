"""Runs of Weights & Biases; with WANDB_MODE=offline files that `wandb sync` sends later."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memkd_jax.errors import UserError
from memkd_jax.trackers.tracker import Place

_NAME = 'wandb'
FOLDER = 'wandb'  # as its package names it


class WandB:
  """A run for each model, in the project of WANDB_PROJECT, or the workdir's name.

  Its files lie in `wandb/` of the model's folder, or of WANDB_DIR. A training that resumes,
  and the evaluation, go on under the same number.
  """

  def __init__(self, place: Place):
    """Begins a run, or goes on with the one that the model has already."""
    wandb = _package()
    found = place.read_id(_NAME)
    if found is None:
      found = uuid.uuid4().hex[:16]
      place.write_id(_NAME, found)
    self._wandb = wandb
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', place.experiment),
      name=place.name,
      id=found,
      resume='allow',
      dir=os.environ.get('WANDB_DIR', str(place.folder)),
      config=dict(place.fields),
      allow_val_change=True,
      reinit='create_new',  # several models may be trained at once
      settings=wandb.Settings(silent=True, console='off'),
    )

  @staticmethod
  def check() -> None:
    """Raises UserError where wandb is missing, or nobody is logged in."""
    wandb = _package()
    here = os.environ.get('WANDB_MODE', 'online') != 'online'
    if not (here or wandb.login(prompt=False)):
      raise UserError(
        '--config.train.trackers=wandb: nobody is logged in; run `wandb login`, or set '
        'WANDB_MODE=offline.'
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends the figures of one training step; those of steps that it has are left out."""
    self._run.log(dict(values), step=step)

  def finish(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
    """Sends the figures as the run's summary, and the pictures."""
    self._run.summary.update(dict(figures))
    if pictures:
      self._run.log({name: self._wandb.Image(str(path)) for name, path in pictures.items()})

  def close(self) -> None:
    """Sends what is still to be sent."""
    self._run.finish()


def _package() -> Any:
  try:
    import wandb
  except ImportError as error:
    raise UserError(
      '--config.train.trackers=wandb needs: pip install "memkd_jax[wandb]".'
    ) from error
  return wandb
