"""How many bits of a channel of 16 bits a camera has filled (`data.bit_depth`).

Cameras of 10, 12 and 14 bits write numbers up to 1023, 4095 and 16383 into files of 16 bits,
where no header says so. What the training images hold decides for all images of a model.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ml_collections import ConfigDict

from memkd_jax.data.decoding import DEEP_COLOR, decode, has_16_bits
from memkd_jax.data.sample import Readable, Sample

AUTO = 'auto'
FULL = 16
_USUAL = (10, 12, 14)


def choose(setting: str, samples: Sequence[Sample], threads: int) -> int:
  """The number of bits that all 16-bit images of a model are read with.

  Args:
    setting: the value of `data.bit_depth`: a number of bits, or 'auto'.
    samples: the training images, of which 'auto' reads the 16-bit ones.
    threads: number of threads that decode.

  Returns:
    The setting; of 'auto' the smallest of 10, 12, 14 and 16 that holds the highest value of
    the 16-bit images among the samples, 16 where there are none.
  """
  if setting != AUTO:
    return int(setting)
  all_used = threading.Event()

  def highest(sample: Sample) -> int:
    if all_used.is_set():
      return 0
    value = _highest_value(sample.image)
    if value >= 2 ** _USUAL[-1]:
      all_used.set()  # there is nothing left to find out
    return value

  with ThreadPoolExecutor(threads) as pool:
    found = max(pool.map(highest, samples), default=0)
  if not found:
    return FULL
  return next((bits for bits in _USUAL if found < 2**bits), FULL)


def of_config(config: ConfigDict) -> int:
  """The number of bits that a trained model's images are read with."""
  setting = config.data.get('bit_depth', AUTO)
  return FULL if setting == AUTO else int(setting)


def in_config(config: ConfigDict, bits: int) -> ConfigDict:
  """A copy of a config that holds the number of bits which was found for `auto`."""
  config = config.copy_and_resolve_references()
  config.data.bit_depth = str(bits)
  return config


def to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
  """Scales integers, and rounds to the nearest; higher values than fit are clipped.

  Args:
    values: integers from 0 to 65535, of any shape.
    bits: number of bits that are used: 2**bits - 1 becomes 255.

  Returns:
    uint8, of the same shape.
  """
  # In a third of the memory that floating-point numbers need.
  values = values.astype(np.uint32)
  if bits == FULL:
    return ((values + 128) // 257).astype(np.uint8)
  highest = np.uint32(2**bits - 1)
  np.minimum(values, highest, out=values)
  return ((values * 255 + highest // 2) // highest).astype(np.uint8)


def _highest_value(file: Readable) -> int:
  """The highest value of an image of 16 bits per channel; 0 of others, and of broken ones."""
  if not has_16_bits(file):
    return 0
  try:
    image = decode(file, page=0)
  # Reading the split says what is wrong, of all files at once.
  except Exception:
    return 0
  values = np.asarray(image)
  highest = int(np.max(values[..., :3] if values.ndim == 3 else values))
  return highest * 256 if DEEP_COLOR in image.info else highest
