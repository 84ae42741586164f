"""What a finished training left: the state after its last step."""

from pathlib import Path

import numpy as np

from memkd_jax.data.sampling import number_of_steps
from memkd_jax.errors import UserError
from memkd_jax.methods.distillation import System
from memkd_jax.runtime import hosts
from memkd_jax.training.shared_checkpoints import SharedCheckpoints
from memkd_jax.training.step import TrainState


def final_state(
  system: System, category: str, seed: int, images: np.ndarray, folder: Path
) -> tuple[TrainState, int]:
  """The state after the last step, for no other may be reported.

  Args:
    system: the compiled steps.
    category: and
    seed: of the run.
    images: uint8 [N, S, S, 3], any; only their size counts.
    folder: where checkpoints/ is.

  Returns:
    The state, and the number of images that it was trained on.

  Raises:
    UserError: there is none, it is damaged, or the training has not ended.
  """
  path, train = folder / 'checkpoints', system.config.train
  if not hosts.on_main(path.is_dir):
    raise UserError(f'There are no checkpoints in {path}; train without --mode=evaluate.')
  with SharedCheckpoints(path) as checkpoints:
    latest = checkpoints.latest_step()
    train_images = checkpoints.read_metadata()['train_images'] if latest is not None else 0
    steps = number_of_steps(train.epochs, train_images, train.batch_size)
    if latest is None or latest != steps:
      raise UserError(
        f'The training in {path} has not ended (step {latest or 0} of {steps or "?"}); '
        'finish it without --mode=evaluate.'
      )
    return checkpoints.restore(system.init_state(category, seed, images)), train_images
