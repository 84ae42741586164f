"""Asks a reader for all that is missing, where it would end at the first thing that is.

Who trains wants to be stopped by a file that is missing; who looks a data set over wants to
know of all. So a reader says what it cannot go without by raising, and what it could by
`refuse`. What it goes without anyway it tells by `report` and `mention_...`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from memkd_jax.data.sample import Sample
from memkd_jax.errors import UserError

# What `refuse` may be told of.
MISSING, MASKLESS, IMAGELESS = 'missing file', 'missing mask', 'mask without image'
MISPLACED, UNKNOWN, INPUTLESS = 'misplaced file', 'broken metadata', 'missing input'
BROKEN_MASK = 'broken mask'


class Refused(NamedTuple):
  """What a reader did without.

  Attributes:
    kind: what is wrong, one of the names above: 'missing file' for example.
    path: the file that is missing or wrong.
    sentence: what is wrong, as it ends a training.
  """

  kind: str
  path: Path
  sentence: str


class Survey:
  """What a reader met.

  Attributes:
    refused: the files that the reader did without.
    normal_masks: the masks of normal images, which nothing else looks at, by the sample's id.
    left_out: anomalous training images, which are not learned from.
    known: files, and folders of files, that belong to the data set but to none of its samples.
  """

  def __init__(self) -> None:
    """An empty one."""
    self.refused: list[Refused] = []
    self.normal_masks: dict[str, Path] = {}
    self.left_out: list[Sample] = []
    self.known: set[Path] = set()


_current: ContextVar[Survey | None] = ContextVar('survey', default=None)


@contextmanager
def surveyed() -> Iterator[Survey]:
  """Has readers go on where they can, in this thread, and gives what they met."""
  survey = Survey()
  token = _current.set(survey)
  try:
    yield survey
  finally:
    _current.reset(token)


def refuse(kind: str, path: Path, sentence: str) -> None:
  """Ends a reader, unless it is surveyed: then it returns, and the reader does without.

  Args:
    kind: see `Refused`.
    path: see `Refused`.
    sentence: see `Refused`.

  Raises:
    UserError: nobody surveys.
  """
  if _current.get() is None:
    raise UserError(sentence)
  report(kind, path, sentence)


def report(kind: str, path: Path, sentence: str) -> None:
  """Tells a survey, if there is one, of what is wrong, though nobody who trains needs it.

  Args:
    kind: see `Refused`.
    path: see `Refused`.
    sentence: see `Refused`.
  """
  if (survey := _current.get()) is not None:
    survey.refused.append(Refused(kind, path, sentence))


def mention_normal_mask(sample_id: str, mask: Path | None) -> None:
  """Tells a survey, if there is one, of the mask of a normal image, if it is there."""
  survey = _current.get()
  if survey is not None and mask is not None and mask.is_file():
    survey.normal_masks[sample_id] = mask


def mention_left_out(samples: Iterable[Sample]) -> None:
  """Tells a survey, if there is one, of anomalous training images, with masks if they have."""
  if (survey := _current.get()) is not None:
    survey.left_out += samples


def mention_known(*paths: Path) -> None:
  """Tells a survey, if there is one, of files or folders that belong to no sample."""
  if (survey := _current.get()) is not None:
    survey.known.update(paths)
