"""Looks a data set over: what it is, what is missing of it, and what is damaged."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from memkd_jax.data.benchmarks import counts
from memkd_jax.data.datasets import DATASETS
from memkd_jax.data.file_checks import Look, Size, look_at
from memkd_jax.data.findings import Finding
from memkd_jax.data.listing import explain_missing_root
from memkd_jax.data.modalities import PICTURES
from memkd_jax.data.recognition import categories_of
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.data.survey import INPUTLESS, surveyed
from memkd_jax.data.unlisted import Tree
from memkd_jax.errors import UserError, explain
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.wording import counted

TRAIN, VALIDATION, TEST = 'train', 'validation', 'test'
_MOST = 0.9  # share of images that are alike, beyond which the others are named
# Layouts say so where masks belong to a data set.
_HAS_MASKS = re.compile(r'mask|ground_truth|\bgt\b', re.IGNORECASE)


@dataclasses.dataclass
class Category:
  """One category, as it is there.

  Attributes:
    name: name of the category.
    folder: the one below which its files lie.
    splits: the samples of each split that could be listed.
    failed: names of the splits that could not.
    normal_masks: the masks of normal images, by split and the sample's id.
    left_out: anomalous training images, which are not learned from.
    unlabelled: the images whose labels the publisher keeps; None where there are none of such.
    known: files and folders that belong to the data set, but are none of these.
    sizes: how many images have a (width, height); empty where none was decoded.
    findings: what was found in the category.
  """

  name: str
  folder: Path
  splits: dict[str, list[Sample]] = dataclasses.field(default_factory=dict)
  failed: list[str] = dataclasses.field(default_factory=list)
  normal_masks: dict[tuple[str, str], Path] = dataclasses.field(default_factory=dict)
  left_out: list[Sample] = dataclasses.field(default_factory=list)
  unlabelled: list[Path] | None = None
  known: set[Path] = dataclasses.field(default_factory=set)
  sizes: Counter[Size] = dataclasses.field(default_factory=Counter)
  findings: list[Finding] = dataclasses.field(default_factory=list)

  @property
  def is_there(self) -> bool:
    """Whether there is anything of it."""
    return not any(f.kind == 'missing category' for f in self.findings)

  @property
  def faults(self) -> int:
    """The number of faults."""
    return len({f for f in self.findings if f.is_fault})

  @property
  def counts(self) -> dict[str, int]:
    """The numbers of images: train, test_normal, test_anomalous, and of masks.

    Where there are such also validation, unlabelled and train_anomalous, which are left out.
    """
    test = self.splits.get(TEST, [])
    numbers = counts.count(len(self.splits.get(TRAIN, [])), test)
    numbers['masks'] = sum(s.mask is not None for s in test)
    if VALIDATION in (*self.splits, *self.failed):
      numbers[VALIDATION] = len(self.splits.get(VALIDATION, []))
    if self.unlabelled is not None:
      numbers['unlabelled'] = len(self.unlabelled)
    if self.left_out:
      numbers['train_anomalous'] = len(self.left_out)
    return numbers


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What was found.

  Attributes:
    root: the data set's folder.
    dataset: name of the data set, a key of `DATASETS`.
    categories: the categories that were looked at.
    elsewhere: findings that belong to no category.
    decoded: whether images were decoded, and not only listed.
  """

  root: Path
  dataset: str
  categories: list[Category]
  elsewhere: list[Finding]
  decoded: bool

  @property
  def findings(self) -> list[Finding]:
    """All of them, each once."""
    of_categories = [f for category in self.categories for f in category.findings]
    return list(dict.fromkeys([*of_categories, *self.elsewhere]))

  @property
  def faults(self) -> int:
    """The number of faults."""
    return sum(finding.is_fault for finding in self.findings)


def inspect(
  root: Path, name: str, categories: Sequence[str] | None = None, decode: bool = True
) -> Inspection:
  """Looks a data set over.

  Args:
    root: the data set's folder, or the file that lists its images.
    name: a key of `DATASETS`, see `recognition.recognise`.
    categories: names of the categories to look at; all of the data set if None.
    decode: whether to read the images, too, and not only their names.

  Raises:
    UserError: there is no such category, or nothing that the data set could be.
  """
  dataset = DATASETS[name]
  if not root.exists():
    raise UserError(f'There is no folder {root}{explain_missing_root(root)}.')
  known = categories_of(name, root)
  if unknown := sorted(set(categories or ()) - set(known)):
    raise UserError(
      f'{root} can have no category {", ".join(unknown)}; known are {", ".join(known)}.'
    )
  if not known:
    raise UserError(f'{root} holds no category; expected layout: {dataset.layout}.')
  tree = Tree(root)
  found = [_list(root, name, dataset, category) for category in categories or known]
  for category in found:
    _check_numbers(name, dataset, category)
  elsewhere: list[Finding] = []
  tree.report_unopened(found, elsewhere)
  tree.report_unlisted(found, elsewhere, dataset, whole=categories is None)
  if decode:
    _decode_all(root, found, tree)
  return Inspection(root, name, found, elsewhere, decode)


def _list(root: Path, name: str, dataset: Dataset, category: str) -> Category:
  """Lists all splits of a category."""
  folder = root if dataset.is_listed else dataset.folder_of(root, category)
  found = Category(category, folder)
  splits = [TRAIN, TEST]
  if DATASETS[name].has_validation:
    splits.insert(1, VALIDATION)
  options: dict[str, Any] = {}
  if 'inputs' in dataset.options:
    options['inputs'] = tuple(PICTURES)
  problems = []
  for split in splits:
    with surveyed() as survey:
      try:
        samples = dataset.list_samples(root, category, split, **options)
      except (UserError, OSError) as error:
        found.failed.append(split)
        problems.append(explain(error))
        samples = []
    if samples:
      found.splits[split] = samples
    elif split not in found.failed and dataset.categories:
      found.failed.append(split)
      problems.append(f'{folder} has no {split} images.')
    for sample_id, mask in survey.normal_masks.items():
      found.normal_masks[split, sample_id] = mask
    found.left_out += survey.left_out
    found.known |= survey.known
    lacking = [refused for refused in survey.refused if refused.kind == INPUTLESS]
    if samples and not any(len(sample.inputs) > 1 for sample in samples):
      # Who wants photographs alone has extracted these alone.
      path, text = str(lacking[0].path) if lacking else '', f'{category}: of split {split}.'
      found.findings += [Finding('no inputs', path, text)] if lacking else []
      survey.refused = [refused for refused in survey.refused if refused not in lacking]
    for refused in survey.refused:
      text = explain(UserError(refused.sentence))
      found.findings.append(Finding(refused.kind, str(refused.path), text))
  if len(found.failed) == len(splits) and not folder.exists():
    text = problems[0].partition('; expected layout')[0]
    found.findings = [Finding('missing category', str(folder), f'{text.removesuffix(".")}.')]
    return found
  if dataset.unlabelled is not None:
    try:
      found.unlabelled = dataset.unlabelled(root, category)
    except (UserError, OSError) as error:
      problems.append(explain(error))
  found.findings[:0] = [Finding('missing split', str(folder), text) for text in problems]
  return found


def _check_numbers(name: str, dataset: Dataset, category: Category) -> None:
  """Compares the numbers of images and masks with what they should be."""
  numbers, folder = category.counts, str(category.folder)
  if not category.failed and (text := counts.differences(name, category.name, numbers)):
    category.findings.append(Finding('count', folder, text))
  anomalous, masks = numbers['test_anomalous'], numbers['masks']
  if anomalous and not masks and dataset.categories and _HAS_MASKS.search(dataset.layout):
    text = f'{category.name}: none of {anomalous} anomalous images has a mask.'
    category.findings.append(Finding('no masks', folder, text))
  elif masks and masks < anomalous and not dataset.categories:
    text = f'{category.name}: {anomalous - masks} of {anomalous} anomalous images have no mask.'
    category.findings.append(Finding('some masks', folder, text))
  if category.left_out:
    images = counted(len(category.left_out), 'anomalous image')
    text = f'{category.name}: {images}, as only normal ones are learned from.'
    category.findings.append(Finding('left out', folder, text))


def _decode_all(root: Path, categories: Sequence[Category], tree: Tree) -> None:
  """Looks at the files of all samples, and at images that are of no split.

  These are of splits that cannot be listed, left out of the training, or without a label.
  """
  tasks: list[tuple[Category, str, Sample, Path | None]] = []
  for category in categories:
    for split, samples in category.splits.items():
      for sample in samples:
        tasks.append((category, split, sample, category.normal_masks.get((split, sample.id))))
    tasks += [(category, '', sample, None) for sample in category.left_out]
    for image in (*tree.unsorted(category), *(category.unlabelled or ())):
      sample = Sample(image.relative_to(root).as_posix(), {'rgb': image}, None, GOOD)
      tasks.append((category, '', sample, None))

  looks: dict[str, list[tuple[str, Sample, Look]]] = {c.name: [] for c in categories}
  # Pillow releases the interpreter lock.
  pool = ThreadPoolExecutor(_processors())
  try:
    with progress_bar('checking', len(tasks)) as progress:
      found = pool.map(lambda task: look_at(task[2], task[3]), tasks)
      for (category, split, sample, _), look in zip(tasks, found, strict=True):
        looks[category.name].append((split, sample, look))
        category.findings += look.findings
        progress.update()
  finally:
    pool.shutdown(cancel_futures=True)
  for category in categories:
    category.findings += _compare(category, looks[category.name])


def _compare(
  category: Category, looks: Sequence[tuple[str, Sample, Look]]
) -> Iterator[Finding]:
  """What the images of a category are beside each other."""
  whole = [(sample, look) for split, sample, look in looks if split and look.size]
  category.sizes.update(look.size for _, look in whole if look.size)

  def differing(
    kind: str, value_of: Callable[[Look], Hashable], show: Callable[[Any], str]
  ) -> Iterator[Finding]:
    values = Counter(value_of(look) for _, look in whole)
    (usual, number), *others = values.most_common() or [(None, 0)]
    if others and number >= _MOST * len(whole):
      for sample, look in whole:
        if (value := value_of(look)) != usual:
          text = f'{sample.image} is {show(value)}, most others are {show(usual)}.'
          yield Finding(kind, str(sample.image), text)

  yield from differing('unusual size', lambda look: look.size, lambda s: f'{s[0]} x {s[1]}')
  yield from differing('unusual mode', lambda look: look.mode, str)
  before: dict[bytes, Sample] = {}
  for current in (TRAIN, VALIDATION, TEST):
    known = {look.digest: sample for split, sample, look in looks if split == current}
    for split, sample, look in looks:
      if split == current and look.digest in before:
        text = f'{sample.image} is the same as {before[look.digest].image}.'
        yield Finding('leak', str(sample.image), text)
    before |= {digest: sample for digest, sample in known.items() if digest is not None}


def _processors() -> int:
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
