"""Labels of data sets whose publisher gives no others than label images: black is normal."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memkd_jax.data.listing import LeftOut
from memkd_jax.data.masks import decode_mask
from memkd_jax.data.sample import GOOD, Sample
from memkd_jax.data.survey import (
  BROKEN_MASK,
  IMAGELESS,
  MASKLESS,
  mention_known,
  mention_normal_mask,
  refuse,
  report,
)
from memkd_jax.errors import UserError

DEFECT = 'defect'
_THREADS = 8  # Pillow releases the interpreter lock


def images_among(files: Sequence[Path], ending: str) -> list[Path]:
  """The files that are no label images.

  Args:
    files: all images of a folder.
    ending: what the names of label images end with, '_GT' for example.
  """
  images = [file for file in files if not file.stem.endswith(ending)]
  named = {image.with_suffix('') for image in images}
  for file in files:
    expected = file.with_name(file.stem.removesuffix(ending))
    if file.stem.endswith(ending) and expected not in named:
      text = f'{file} has no image: {expected}.* is expected; extract the archive again.'
      report(IMAGELESS, file, text)
  return images


def label_images(
  images: Sequence[Path], label_of: Callable[[Path], Path], name_of: Callable[[Path], str]
) -> tuple[list[Sample], list[LeftOut]]:
  """Reads what each image shows off its label image.

  Everywhere else a label is never read off a mask. Here the label image is the definition:
  it belongs to every image, and one is normal where no pixel of its own is set.

  Args:
    images: the files of the images, without the label images.
    label_of: gives the file of an image's label image.
    name_of: gives the id of an image's sample.

  Returns:
    The samples, of the defect 'good' or 'defect', the latter with their masks; and the images
    without a label image, of which nobody knows what they show.

  Raises:
    UserError: a label image cannot be read.
  """
  labels = {image: label_of(image) for image in images}
  known = [image for image in images if labels[image].is_file()]
  with ThreadPoolExecutor(_THREADS) as pool:
    found = list(pool.map(_is_defective, [labels[image] for image in known]))
  samples = []
  for image, is_defective in zip(known, found, strict=True):
    name, label = name_of(image), labels[image]
    if isinstance(is_defective, UserError):
      refuse(BROKEN_MASK, label, str(is_defective))
      mention_known(image)
    elif is_defective:
      samples.append(Sample(name, {'rgb': image}, label, DEFECT))
    else:
      samples.append(Sample(name, {'rgb': image}, None, GOOD))
      mention_normal_mask(name, label)
  unknown = [image for image in images if not labels[image].is_file()]
  for image in unknown:
    text = f'{image} has no label image, so nobody knows what it shows'
    report(MASKLESS, labels[image], f'{text}: {labels[image]} is expected.')
    mention_known(image)
  return samples, [LeftOut(image, 'image without a label image') for image in unknown]


def _is_defective(label: Path) -> bool | UserError:
  """Whether a label image marks anything; or why it cannot be read."""
  try:
    return bool(decode_mask(label).any())
  except UserError as error:  # a survey, which may want to go on, is not seen from a thread
    return error
