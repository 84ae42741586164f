"""Event files for TensorBoard, without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.trackers.tracker import Place, import_package


class TensorBoard:
  """Event files in `tensorboard/` of the model's folder, for `tensorboard --logdir=WORKDIR`."""

  def __init__(self, place: Place):
    """Opens a new event file, which hides what older ones hold after the place's step."""
    self._place = place
    folder = str(place.folder / 'tensorboard')
    self._writer = import_package('tensorboardX', 'tensorboard').SummaryWriter(
      folder, purge_step=place.step + 1
    )

  @staticmethod
  def check() -> None:
    """Raises UserError where tensorboardX is missing."""
    import_package('tensorboardX', 'tensorboard')

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the figures of one training step."""
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def finish(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
    """Writes figures and fields for the tab HPARAMS, and pictures for IMAGES."""
    # In the same event file: a model is one run of TensorBoard, where add_hparams makes two.
    from tensorboardX.summary import hparams

    step = self._place.step
    for summary in hparams(dict(self._place.texts()), dict(figures)):
      self._writer.file_writer.add_summary(summary)
    for name, value in figures.items():
      self._writer.add_scalar(name, value, step)
    for name, path in pictures.items():
      with Image.open(path) as picture:
        pixels = np.asarray(picture.convert('RGB'))
      self._writer.add_image(name, pixels, step, dataformats='HWC')

  def close(self) -> None:
    """Ends the event file."""
    self._writer.close()
