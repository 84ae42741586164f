"""How many images a benchmark's publisher says there are."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path

from memkd_jax.data.sample import Sample


def count(train: int, test: Sequence[Sample]) -> dict[str, int]:
  """The numbers of images that were used.

  Args:
    train: number of training images.
    test: the samples of the test split.

  Returns:
    The numbers by name: train, test_normal and test_anomalous.
  """
  anomalous = sum(s.label for s in test)
  return {'train': train, 'test_normal': len(test) - anomalous, 'test_anomalous': anomalous}


def differences(dataset: str, category: str, counts: dict[str, int]) -> str | None:
  """Compares with the published numbers.

  Args:
    dataset: the data set's name.
    category: name of the category in the data set.
    counts: numbers of images, as `count` returns them, and perhaps further ones of those that
      are published.

  Returns:
    A sentence where they differ; None where they agree or none are published.
  """
  numbers = published(dataset, category)
  found = counts | {'test': counts['test_normal'] + counts['test_anomalous']}
  wrong = [
    f'{found[name]} {name} images instead of {number}'
    for name, number in numbers.items()
    if name in found and found[name] != number
  ]
  if not wrong:
    return None
  return f'{category} has {", ".join(wrong)}, the published numbers: is it complete?'


def published(dataset: str, category: str) -> dict[str, int]:
  """The published numbers of images: those of `count`, validation, test and unlabelled.

  Args:
    dataset: the data set's name.
    category: name of the category in the data set.

  Returns:
    Those that are published; none where nothing is known of such a category.
  """
  return _published().get((dataset, category), {})


@functools.cache
def _published() -> dict[tuple[str, str], dict[str, int]]:
  """{(data set, category): {'train': ..., 'test': ...}}, of each what is published."""
  names = ('train', 'validation', 'test_normal', 'test_anomalous', 'test', 'unlabelled')
  with Path(__file__).with_name('counts.csv').open(newline='', encoding='utf-8') as file:
    return {
      (row['dataset'], row['category']): {n: int(row[n]) for n in names if row[n]}
      for row in csv.DictReader(file)
    }
