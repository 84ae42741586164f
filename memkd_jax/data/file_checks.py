"""Looks at all files of an image: whether they decode, and fit each other."""

import dataclasses
from pathlib import Path

import numpy as np

from memkd_jax.data import decoding
from memkd_jax.data.depth_files import read_cloud, read_depth
from memkd_jax.data.findings import Finding
from memkd_jax.data.images import read_rgb
from memkd_jax.data.masks import decode_mask
from memkd_jax.data.modalities import DEPTH, INFO, NORMALS, XYZ
from memkd_jax.data.sample import Mask, Sample, files_of
from memkd_jax.data.task_images import file_digest
from memkd_jax.errors import UserError, explain

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Look:
  """What looking at an image told.

  Attributes:
    size: (width, height) of the upright image; None where it is broken.
    mode: how its pixels are stored, 'RGB' for example, as Pillow names it.
    digest: digest of the image's file; None where it is broken.
    findings: what is wrong with the image, its mask or its other files; empty where nothing is.
  """

  size: Size | None = None
  mode: str | None = None
  digest: bytes | None = None
  findings: tuple[Finding, ...] = ()


def look_at(sample: Sample, normal_mask: Path | None = None) -> Look:
  """Decodes the image of a sample, its mask, and what else was recorded.

  Args:
    sample: the sample, of whatever inputs.
    normal_mask: the mask of a normal image, if there is one.
  """
  file = sample.image
  try:
    size = read_rgb(file).size
    digest = file_digest(file)
  except (UserError, OSError) as error:
    return Look(findings=(Finding('broken image', str(file), explain(error)),))
  except MemoryError:
    text = f'{file} does not fit into memory.'
    return Look(findings=(Finding('broken image', str(file), text),))
  findings = _check_inputs(sample, size)
  if (mask := sample.mask or normal_mask) is not None:
    findings += _check_mask(sample, mask, size)
  return Look(size, decoding.read_mode(file), digest, tuple(findings))


def _check_mask(sample: Sample, mask: Mask, size: Size) -> list[Finding]:
  remarks: list[str] = []
  try:
    marked = decode_mask(mask, remarks.append)
  except (UserError, OSError) as error:
    return [Finding('broken mask', str(mask), explain(error))]
  height, width = marked.shape
  findings = _check_size(mask, (width, height), sample, size)
  if remarks:
    text = (
      f'{mask} has {_count_values(mask)} grey values in place of two; '
      'what exceeds half of the highest counts as defect.'
    )
    findings.append(Finding('soft mask', str(mask), text))
  if sample.label and not marked.any():
    text = f'{mask} marks nothing, but its image is of the kind {sample.defect}.'
    findings.append(Finding('empty mask', str(mask), text))
  if not sample.label and marked.any():
    text = f'{mask} marks {marked.mean():.2%} of an image that is normal.'
    findings.append(Finding('marked normal', str(mask), text))
  return findings


def _check_inputs(sample: Sample, size: Size) -> list[Finding]:
  """Looks at what was recorded beside the photograph."""
  readers = {
    XYZ: lambda file: read_cloud(file).shape[1::-1],
    DEPTH: lambda file: read_depth(file, sample.inputs[INFO]).shape[1::-1],
    NORMALS: lambda file: read_rgb(file).size,
  }
  findings = []
  for name, read in readers.items():
    file = sample.inputs.get(name)
    if file is None or (name == DEPTH and INFO not in sample.inputs):
      continue
    try:
      findings += _check_size(file, read(file), sample, size)
    except (UserError, OSError) as error:
      findings.append(Finding('broken input', str(file), explain(error)))
  return findings


def _check_size(file: Mask, found: Size, sample: Sample, size: Size) -> list[Finding]:
  if found == size:
    return []
  text = (
    f'{file} is {found[0]} x {found[1]} pixels, but its image {sample.image} is '
    f'{size[0]} x {size[1]}.'
  )
  return [Finding('other size', str(file), text)]


def _count_values(mask: Mask) -> int:
  found: set[int] = set()
  for file in files_of(mask):
    values = np.asarray(decoding.decode(file))
    found |= set(np.unique(values.max(axis=-1) if values.ndim == 3 else values).tolist())
  return len(found)
