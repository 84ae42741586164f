"""Lists samples from a TFDS directory instead of folders; `builder` makes such directories.

TFDS is used without TensorFlow. The encoded bytes come back as they went in, so the
arrays are those of the folder reader, bit for bit.
"""

import dataclasses
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import IO, Any

from etils import epath

from memkd_jax.data.sample import LayeredMask, Mask, Sample, Saturation
from memkd_jax.errors import UserError

VALIDATION = 'validation'  # the split that not all directories have
VERSION = '1.0.0'  # of the features in `builder`
SATURATIONS, NOTES = 'saturations', 'notes'  # beside the names of splits, in the metadata


@dataclasses.dataclass(frozen=True)
class Encoded:
  """An image or mask within a record, which is read when it is opened.

  Attributes:
    records: the split's records, which several threads may read at once.
    index: place of the record among the split's records, from 0.
    feature: name of the record's feature, 'image' or 'masks'.
    id: id of the sample, for errors.
    split: name of the split, for errors.
    path: folder of the prepared category.
    layer: number of the mask, from 0, where the record has several.
  """

  records: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)
  index: int
  feature: str
  id: str
  split: str
  path: epath.Path
  layer: int = 0

  def open(self, mode: str = 'rb') -> IO[bytes]:
    """Gives the encoded bytes, whatever the mode.

    Raises:
      UserError: the record cannot be read.
    """
    try:
      value = self.records[self.index][self.feature]
      return io.BytesIO(value if self.feature == 'image' else value[self.layer])
    except Exception as error:
      raise _damaged(self.path, error) from error

  def __str__(self) -> str:
    mask = 'mask of ' if self.feature == 'masks' else ''
    return f'{mask}{self.id} ({self.split} record {self.index} of {self.path})'


def category_path(directory: str, dataset: str, category: str) -> epath.Path:
  """Where TFDS keeps a category."""
  return epath.Path(directory).expanduser() / dataset / category / VERSION


def list_categories(directory: str, dataset: str) -> list[str]:
  """Names of the prepared categories, sorted; none where there is no such directory.

  Raises:
    UserError: the directory is of a kind that cannot be opened here.
  """
  folder = epath.Path(directory).expanduser() / dataset
  try:
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(n for n in names if category_path(directory, dataset, n).is_dir())
  except (OSError, ImportError) as error:
    raise UserError(f'{folder} cannot be opened: {error}.') from error


def has_split(directory: str, dataset: str, category: str, split: str) -> bool:
  """Whether a prepared category has a split; args and errors as `list_samples`."""
  return split in _metadata(category_path(directory, dataset, category))


def read_notes(directory: str, dataset: str, category: str) -> list[str]:
  """What the reader had to say when the category was prepared; args as `list_samples`."""
  metadata = _metadata(category_path(directory, dataset, category))
  return [str(note) for note in metadata.get(NOTES, [])]


def list_samples(directory: str, dataset: str, category: str, split: str) -> list[Sample]:
  """Lists a split in the order of the reader that it was prepared with.

  No image is read yet.

  Args:
    directory: the TFDS directory, on a disk or in a bucket (gs://bucket/folder needs gcsfs).
    dataset: the data set's name in `datasets.DATASETS`.
    category: name of the category.
    split: 'train' or 'test', and 'validation' where there is one.

  Returns:
    At least one sample, equal but for `inputs` and `mask` to those of
    `Dataset.list_samples`.

  Raises:
    UserError: the category is not prepared, or what is there is damaged.
  """
  path = category_path(directory, dataset, category)
  try:
    prepared = path.is_dir()
  except (OSError, ImportError) as error:
    raise UserError(f'{path} cannot be opened: {error}.') from error
  if not prepared:
    raise UserError(f'There is no {path}; prepare it with `{_command(path)}`.')
  if split == VALIDATION and split not in _metadata(path):
    raise UserError(
      f'{path} was prepared without {split} images; remove it and prepare it anew with '
      f'`{_command(path)}`.'
    )
  try:
    rows, records, known = _open(path, split)
    if len(rows) != len(records):
      raise ValueError(f'{len(rows)} samples are listed but {len(records)} are stored')

    saturations = tuple(Saturation(*those) for those in known)

    def encoded(index: int, feature: str, layer: int = 0) -> Encoded:
      return Encoded(records, index, feature, rows[index][0], split, path, layer)

    def mask_of(index: int, masks: int) -> Mask | None:
      layers = tuple(encoded(index, 'masks', layer) for layer in range(masks))
      if saturations and layers:
        return LayeredMask(layers, saturations)
      return layers[0] if layers else None

    return [
      Sample(id, {'rgb': encoded(i, 'image')}, mask_of(i, int(masks)), defect)
      for i, (id, defect, masks) in enumerate(rows)
    ]
  # TFDS, protobuf and array_record raise what they like on damaged files.
  except Exception as error:
    raise _damaged(path, error) from error


def _metadata(path: epath.Path) -> Mapping[str, Any]:
  """What was written of a prepared category beside its images."""
  import tensorflow_datasets as tfds  # slow to import, and only this source needs it

  try:
    metadata: Mapping[str, Any] = tfds.builder_from_directory(path).info.metadata or {}
  # TFDS and protobuf raise what they like on damaged files.
  except Exception as error:
    raise _damaged(path, error) from error
  return metadata


def _open(
  path: epath.Path, split: str
) -> tuple[list[Any], Sequence[Mapping[str, Any]], list[Any]]:
  """The rows (id, defect, number of masks), the records beside them, and the saturations."""
  import tensorflow_datasets as tfds  # slow to import, and only this source needs it

  class Undecoded(tfds.decode.SkipDecoding):
    """Skips the decoding of sequences too, which TFDS without TensorFlow does not."""

    def decode_batch_example_np(self, examples: Any) -> Any:
      return examples

  builder = tfds.builder_from_directory(path)
  decoders = {'image': Undecoded(), 'masks': Undecoded()}
  metadata, records = builder.info.metadata, builder.as_data_source(split, decoders=decoders)
  return metadata[split], records, metadata.get(SATURATIONS, [])


def _damaged(path: epath.Path, error: Exception) -> UserError:
  reason = ' '.join(str(error).split())
  return UserError(
    f'The prepared data in {path} are damaged ({type(error).__name__}: {reason}); remove '
    f'that folder and prepare it again with `{_command(path)}`.'
  )


def _command(path: epath.Path) -> str:
  category, dataset, directory = path.parents[0], path.parents[1], path.parents[2]
  flags = [f'--dataset={dataset.name}', '--data=DATA', f'--out={directory}']
  return shlex.join(['memkd', 'prepare-tfds', *flags, f'--categories={category.name}'])
