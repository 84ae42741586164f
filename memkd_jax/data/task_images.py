"""The images of a task: listed, checked, and known by their digests; decoded when asked for."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from memkd_jax.data.datasets import Source
from memkd_jax.data.sample import Readable, Sample, files_of
from memkd_jax.errors import UserError

_CHUNK = 1 << 20  # bytes
_DIGITS = 16  # hexadecimal, of a sha256: no two of a billion images share them by chance
_NAMED = 3  # images in a sentence


@dataclasses.dataclass(frozen=True)
class TaskImages:
  """The samples of a task.

  Attributes:
    train: normal samples, to learn from and to set a threshold with; at least one. Those that
      the publisher sets apart for it come last.
    test: samples to be scored, perhaps none.
    notes: sentences on how the files were read, and what is left out.
  """

  train: tuple[Sample, ...]
  test: tuple[Sample, ...]
  notes: tuple[str, ...]


def list_task(
  source: Source, train: Sequence[str], test: Sequence[str], validation: bool = False
) -> TaskImages:
  """Lists the samples of a task.

  Args:
    source: the opened data set.
    train: names of the categories whose normal images are learned from.
    test: names of the categories that are scored.
    validation: whether normal images are also those of the split 'validation'.

  Raises:
    UserError: images are missing, or the training would see defects.
  """
  samples = {
    split: tuple(s for c in categories for s in source.list_samples(c, split))
    for split, categories in (
      ('train', train),
      ('validation', train if validation else ()),
      ('test', test),
    )
  }
  normal = (*samples['train'], *samples['validation'])
  for sample in normal:
    if sample.label:
      raise UserError(
        f'{", ".join(train)}: {sample.image} is among the training images but not normal; '
        'move it.'
      )
  notes = [
    note for category in dict.fromkeys((*train, *test)) for note in source.notes(category)
  ]
  return TaskImages(normal, samples['test'], tuple(notes))


def image_digests(samples: Sequence[Sample], threads: int, region: str = '') -> dict[str, str]:
  """What tells whether images are still the same: a digest of each sample's files.

  Args:
    samples: the samples, whose ids are unique.
    threads: number of threads that read files.
    region: what tells the region of interest from others; '' for none.

  Returns:
    {id: hexadecimal digits}, of the contents of all inputs and of the mask, of the kind of
    defect, and of the region.

  Raises:
    OSError: a file cannot be read.
  """
  shared = f'region {region}'.encode() if region else b''

  def digest(sample: Sample) -> str:
    combined = hashlib.sha256(sample.defect.encode() + shared)
    for name, file in sorted(sample.inputs.items()):
      combined.update(name.encode() + file_digest(file))
    for file in files_of(sample.mask):
      combined.update(b'mask' + file_digest(file))
    return combined.hexdigest()[:_DIGITS]

  with ThreadPoolExecutor(threads) as pool:
    return dict(zip((s.id for s in samples), pool.map(digest, samples), strict=True))


def describe_changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
  """What is different between two results of `image_digests`; '' where nothing is.

  Returns:
    '2 are new (a.png, b.png), 1 is gone (c.png), 1 has another content (d.png)'.
  """
  groups = {
    ('is new', 'are new'): [i for i in new if i not in old],
    ('is gone', 'are gone'): [i for i in old if i not in new],
    ('has another content', 'have another content'): [
      i for i in new if i in old and new[i] != old[i]
    ],
  }
  return ', '.join(
    f'{len(ids)} {one if len(ids) == 1 else several} ({shorten(ids)})'
    for (one, several), ids in groups.items()
    if ids
  )


def describe_leak(
  train: Sequence[Sample], test: Sequence[Sample], threads: int, kind: str = 'test'
) -> str:
  """Names test images that are training images as well, by their content; '' where none are.

  Args:
    train: the samples that are learned from.
    test: the samples that should be new.
    threads: number of threads that read files.
    kind: what `test` holds, 'test' or 'validation' images.

  Raises:
    OSError: a file cannot be read.
  """
  with ThreadPoolExecutor(threads) as pool:
    learned = set(pool.map(file_digest, (s.image for s in train)))
    digests = list(pool.map(file_digest, (s.image for s in test)))
  twice = [s.id for s, digest in zip(test, digests, strict=True) if digest in learned]
  if not twice:
    return ''
  one = len(twice) == 1
  images = 'image is a training image' if one else 'images are training images'
  what = f'flatter{"s" * one} the figures'
  if kind != 'test':
    what = f'make{"s" * one} the threshold too low'
  return f'{len(twice)} {kind} {images} as well, and {what}: {shorten(twice)}.'


def shorten(names: Sequence[str]) -> str:
  """The first few of some names, and how many more there are."""
  more = [f'{len(names) - _NAMED} more'] if len(names) > _NAMED else []
  return ', '.join([*names[:_NAMED], *more])


def file_digest(file: Readable) -> bytes:
  """The sha256 of a file's content; raises OSError where it cannot be read."""
  digest = hashlib.sha256()
  with file.open('rb') as stream:
    while chunk := stream.read(_CHUNK):
      digest.update(chunk)
  return digest.digest()
