"""What the config of all methods has that learn by gradient descent; see `descent`."""

from typing import Any

from ml_collections import ConfigDict

from memkd_jax.config import Field


def fields(epochs: int, batch_size: int, learning_rate: float) -> tuple[Field, ...]:
  """The common fields of the section 'train', with a method's own defaults."""
  return (
    Field(
      'train.epochs',
      epochs,
      'Number of passes through the training images',
      high=10**6,
      open_low=True,
    ),
    Field(
      'train.batch_size',
      batch_size,
      'Number of images in a step, on all devices together',
      high=2**16,
      open_low=True,
    ),
    Field(
      'train.learning_rate', learning_rate, "Adam's learning rate", high=1e6, open_low=True
    ),
    Field(
      'train.schedule',
      'constant',
      'How the learning rate goes over the training: it stays, or it rises on a line and falls '
      'on half a cosine to 0',
      choices=('constant', 'cosine'),
    ),
    Field(
      'train.warmup',
      0.05,
      'Share of the steps in which the learning rate rises, with train.schedule=cosine',
      high=1,
      open_high=True,
    ),
    Field(
      'train.checkpoint_steps',
      200,
      'Number of steps between two checkpoints',
      high=2**31 - 1,
      open_low=True,
      resumable=True,
    ),
    Field(
      'train.keep_checkpoints',
      False,
      'Keep the checkpoints of a finished training, which are several times the size of its '
      'model',
      resumable=True,
    ),
    Field(
      'train.cache_features',
      'auto',
      "Where the teacher's features of the training images are kept, which are then computed "
      'once; auto takes the device where they fit, else the host; else, on a CPU and unless '
      'data.memory is host, the disk, from which they come sooner than computed; else computes '
      'them at every step',
      choices=('auto', 'device', 'host', 'disk', 'off'),
      resumable=True,
    ),
    Field(
      'train.log_steps',
      10,
      'Number of steps between two lines of metrics.jsonl',
      high=2**31 - 1,
      open_low=True,
      resumable=True,
    ),
    Field(
      'train.profile',
      False,
      'Write a trace of a few steps to the folder profile',
      resumable=True,
    ),
    Field(
      'train.tensorboard',
      False,
      '',
      replaced=((True, 'train.trackers', ('tensorboard',)),),
      resumable=True,
    ),
  )


def mapped_axis(config: ConfigDict, devices: Any) -> str | None:
  """The axis over which a step is averaged; None where each device trains a model of its own.

  Args:
    config: the run's config, as `methods.resolve` returns it.
    devices: the `runtime.devices.Devices` that train.

  Raises:
    UserError: the devices do not divide a batch.
  """
  from memkd_jax.runtime.devices import AXIS  # imports jax, which --help does without

  if config.parallel.axis != 'batch':
    return None
  devices.check_divide(config.train.batch_size, 'train.batch_size')
  return AXIS
