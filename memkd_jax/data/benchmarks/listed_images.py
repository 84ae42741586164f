"""Images of data sets whose publisher lists them in a file: what is listed has to be there."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from memkd_jax.data.listing import with_masks
from memkd_jax.data.sample import Sample
from memkd_jax.data.survey import MISSING, mention_known, mention_left_out, refuse, report


def listed_images(
  split: str,
  entries: Iterable[tuple[Sample, Path | None]],
  missing: Callable[[Path], str],
) -> list[Sample]:
  """The samples of a split as its file lists them, in its order.

  Args:
    split: 'train', of which anomalous images are left out, or 'test'.
    entries: each listed image as a sample without its mask, and where its mask is expected.
    missing: one sentence on a listed image that is not there.

  Returns:
    The samples with their masks.

  Raises:
    UserError: a listed image is missing that is not left out, or a mask is; see `with_masks`.
  """
  pairs = []
  for sample, mask in entries:
    image, left_out = Path(str(sample.image)), split == 'train' and bool(sample.label)
    if not image.is_file():
      mention_known(*([mask] if mask else []))
      (report if left_out else refuse)(MISSING, image, missing(image))
    elif left_out:
      found = mask if mask and mask.is_file() else None
      mention_left_out([dataclasses.replace(sample, mask=found)])
    else:
      pairs.append((sample, mask))
  return with_masks(pairs)
