"""Runs of Weights & Biases; with WANDB_MODE=offline files that `wandb sync` sends later."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from memkd_jax.errors import UserError
from memkd_jax.trackers.tracker import Place, import_package

_NAME = 'wandb'


class WandB:
  """A run for each model, in the project of WANDB_PROJECT, or the workdir's name.

  Its files lie in `wandb/` of the model's folder, or of WANDB_DIR. A training that resumes,
  and the evaluation, go on under the same number.
  """

  def __init__(self, place: Place):
    """Begins a run, or goes on with the one that the model has already."""
    wandb = import_package('wandb', 'wandb')
    found = place.read_id(_NAME)
    if found is None:
      found = uuid.uuid4().hex[:16]
      place.write_id(_NAME, found)
    self._wandb, self._step = wandb, place.step
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
    wandb = import_package('wandb', 'wandb')
    here = os.environ.get('WANDB_MODE', 'online') != 'online'
    if not (here or wandb.login(prompt=False)):
      raise UserError(
        '--config.train.trackers=wandb: nobody is logged in; run `wandb login`, or set '
        'WANDB_MODE=offline.'
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends the figures of one training step; those of steps that it has are left out."""
    # Without `commit` W&B keeps a step's figures back until the next one's come.
    self._run.log(dict(values), step=step, commit=True)

  def finish(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
    """Sends the figures as the run's summary, and the pictures."""
    self._run.summary.update(dict(figures))
    if pictures:
      images = {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
      # Offline a run does not know how far it was, and a step that it has would be left out.
      self._run.log(images, step=max(self._run.step, self._step + 1), commit=True)

  def close(self) -> None:
    """Sends what is still to be sent."""
    self._run.finish()
