"""Prepares a data set for TFDS, over the same lists of samples as the folder readers.

Others read the result with `tfds.builder_from_directory(DIR/<dataset>/<category>/1.0.0)`.
This module imports TFDS, which is slow, so import it only to prepare.
"""

import contextlib
import dataclasses
import functools
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from memkd_jax.data.datasets import DATASETS
from memkd_jax.data.sample import LayeredMask, Readable, Sample, files_of
from memkd_jax.data.task_images import describe_changes, image_digests
from memkd_jax.data.tfds import source
from memkd_jax.errors import UserError
from memkd_jax.runtime.progress import progress_bar

_THREADS = 8  # that compare files


def prepare(dataset: str, category: str, root: Path, out: str) -> None:
  """Writes one category to a TFDS directory, complete or not at all.

  A category that is there already is left alone, if it holds the images that `root` does, or
  if `root` is gone.

  Args:
    dataset: name of the data set, a key of `datasets.DATASETS`.
    category: name of the category.
    root: folder of the data set as its publisher ships it.
    out: the TFDS directory; the category is written to `<dataset>/<category>/1.0.0` in it.

  Raises:
    UserError: an image is missing, the disk is full or not writable, or what is
      there already is damaged or of other images.
  """
  path = source.category_path(out, dataset, category)
  names = ('train', 'test', *(['validation'] if DATASETS[dataset].has_validation else []))
  if path.exists():
    # One that was prepared before there were validation images has none, and stays.
    there = [
      s for s in names if s != source.VALIDATION or source.has_split(out, dataset, category, s)
    ]
    prepared = {s: source.list_samples(out, dataset, category, s) for s in there}
    if not root.exists():
      return
  splits = {s: DATASETS[dataset].list_samples(root, category, s) for s in names}
  if path.exists():
    for split in prepared:
      samples = splits[split]
      old, new = (image_digests(s, _THREADS) for s in (prepared[split], samples))
      if changes := describe_changes(old, new):
        raise UserError(
          f'{path} holds other images than {root}: of {split}, {changes}; remove {path} and '
          'prepare it anew.'
        )
    return
  notes = DATASETS[dataset].notes(root, category)
  try:
    # An attempt that was killed could not clean up after itself.
    for leftover in path.parent.glob('incomplete.*'):
      leftover.rmtree()
    with (
      progress_bar(f'preparing {category}', sum(map(len, splits.values()))) as progress,
      tempfile.TemporaryDirectory() as nothing,
      contextlib.redirect_stdout(io.StringIO()),  # TFDS announces a download of unknown size
    ):
      _Builder(dataset, category, splits, out, progress.update, notes).download_and_prepare(
        download_dir=nothing,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      )
  except (OSError, RuntimeError) as error:  # array_record raises the latter
    reason = ' '.join(str(error).split())
    raise UserError(
      f'{path} cannot be written ({reason}); make room there or name another directory.'
    ) from error


# `GeneratorBasedBuilder` would hold each split in memory, and beyond 1 GB needs TensorFlow.
class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """A category as a configuration of its data set, in the order of the reader."""

  VERSION = tfds.core.Version(source.VERSION)
  # Nothing is downloaded; to look for checksums, TFDS imports what it does not require.
  url_infos = None

  def __init__(
    self,
    dataset: str,
    category: str,
    splits: Mapping[str, Sequence[Sample]],
    out: str,
    update: Callable[[], Any],
    notes: Sequence[str] = (),
  ):
    self.name = dataset
    self.MANUAL_DOWNLOAD_INSTRUCTIONS = f'{DATASETS[dataset].where}.'
    self._splits = splits
    self._update = update
    self._notes = notes
    config = tfds.core.BuilderConfig(name=category)
    super().__init__(data_dir=out, config=config, file_format='array_record')

  def _create_builder_config(
    self, builder_config: tfds.core.BuilderConfig, version: Any
  ) -> tfds.core.BuilderConfig:
    return builder_config  # TFDS warns of every configuration that its class does not list

  def _info(self) -> tfds.core.DatasetInfo:
    # `Image` keeps encoded bytes as they are, in any format; its shape is what TFDS's own
    # decoding makes of them. There are no masks, one, or several of one defect each.
    features = {
      'id': tfds.features.Text(),
      'image': tfds.features.Image(),
      'masks': tfds.features.Sequence(tfds.features.Image(shape=(None, None, 1))),
      'defect': tfds.features.Text(),
      'label': np.int64,
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
      # What `source` lists without reading any image.
      metadata=tfds.core.MetadataDict(
        {
          split: [(s.id, s.defect, len(files_of(s.mask))) for s in samples]
          for split, samples in self._splits.items()
        }
        | {source.SATURATIONS: self._saturations(), source.NOTES: list(self._notes)}
      ),
    )

  def _saturations(self) -> list[tuple[int, float, bool]]:
    """Those of the category's kinds of defects, where masks have layers."""
    for samples in self._splits.values():
      for sample in samples:
        if isinstance(sample.mask, LayeredMask):
          return [dataclasses.astuple(known) for known in sample.mask.saturations]
    return []

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
    return {
      split: [functools.partial(self._examples, samples)]
      for split, samples in self._splits.items()
    }

  def _examples(self, samples: Sequence[Sample]) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, sample in enumerate(samples):
      # TFDS keeps the examples of a shard until its end, but closed streams are empty.
      with contextlib.ExitStack() as stack:
        sources = (sample.image, *files_of(sample.mask))
        image, *masks = (stack.enter_context(_read(source)) for source in sources)
        yield (
          i,
          {
            'id': sample.id,
            'image': image,
            'masks': masks,
            'defect': sample.defect,
            'label': sample.label,
          },
        )
      self._update()


def _read(source: Readable) -> io.BytesIO:
  try:
    with source.open('rb') as stream:
      return io.BytesIO(stream.read())
  except OSError as error:
    raise UserError(
      f'{source} cannot be read ({error.strerror}); restore it, and prepare again.'
    ) from error
