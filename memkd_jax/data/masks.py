"""Pairs anomalous images with their masks, in the same way for every reader."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from memkd_jax.data.sample import Sample
from memkd_jax.errors import UserError


def with_masks(pairs: Sequence[tuple[Sample, Path | None]]) -> list[Sample]:
  """Gives anomalous samples their masks (protocol, data to arrays).

  Args:
    pairs: samples without mask, each with the file where its mask is due.

  Returns:
    The samples, with masks where there is any; normal ones need none.

  Raises:
    UserError: some anomalous images have a mask and others have none.
  """
  due = [mask for sample, mask in pairs if sample.label]
  found = [mask is not None and mask.is_file() for mask in due]
  if not any(found):
    return [sample for sample, _ in pairs]
  if not all(found):
    sample, mask = next(
      (s, m) for s, m in pairs if s.label and not (m is not None and m.is_file())
    )
    raise UserError(
      f'{sample.image} has no mask{f": {mask} is expected" if mask else ""}, because other '
      'images have theirs; add it, or remove all masks to do without pixel metrics.'
    )
  return [dataclasses.replace(s, mask=m) if s.label else s for s, m in pairs]
