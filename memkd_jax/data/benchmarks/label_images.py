"""Labels of data sets whose publisher gives no others than label images: black is normal."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memkd_jax.data.listing import LeftOut
from memkd_jax.data.masks import decode_mask
from memkd_jax.data.sample import GOOD, Sample

DEFECT = 'defect'
_THREADS = 8  # Pillow releases the interpreter lock


def label_images(
  images: Sequence[Path], label_of: Callable[[Path], Path], name_of: Callable[[Path], str]
) -> tuple[list[Sample], list[LeftOut]]:
  """Reads what each image shows off its label image.

  Everywhere else a label is never read off a mask. Here the label image is the definition:
  it belongs to every image, and one is normal where no pixel of its own is set.

  Args:
    images: the images.
    label_of: the label image of an image.
    name_of: the id of its sample.

  Returns:
    The samples, of the defect 'good' or 'defect', the latter with their masks; and the images
    without a label image, of which nobody knows what they show.

  Raises:
    UserError: a label image cannot be read.
  """
  labels = {image: label_of(image) for image in images}
  known = [image for image in images if labels[image].is_file()]
  with ThreadPoolExecutor(_THREADS) as pool:
    defective = list(pool.map(lambda image: bool(decode_mask(labels[image]).any()), known))
  samples = [
    Sample(name_of(image), {'rgb': image}, labels[image], DEFECT)
    if is_defective
    else Sample(name_of(image), {'rgb': image}, None, GOOD)
    for image, is_defective in zip(known, defective, strict=True)
  ]
  unknown = [image for image in images if not labels[image].is_file()]
  return samples, [LeftOut(image, 'image without a label image') for image in unknown]
