"""MVTec LOCO AD (Bergmann et al., IJCV 2022), logical and structural defects: 5 categories."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from memkd_jax.data.listing import category_folder, list_folders, list_images
from memkd_jax.data.sample import GOOD, Dataset, LayeredMask, Sample, Saturation
from memkd_jax.data.survey import MASKLESS, refuse
from memkd_jax.errors import UserError
from memkd_jax.files.reading import read_text

CATEGORIES = ('breakfast_box', 'juice_bottle', 'pushpins', 'screw_bag', 'splicing_connectors')
LAYOUT = (
  '<category>/{train,validation}/good/*.png, <category>/test/{good,logical_anomalies,'
  'structural_anomalies}/*.png, <category>/ground_truth/<kind>/<image>/*.png and '
  '<category>/defects_config.json'
)
_CONFIG = 'defects_config.json'
_MAX_CONFIG = 2**20  # bytes; they have a few thousand


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train', 'validation' or 'test'; see `folder.list_samples`."""
  folder = category_folder(root, category, LAYOUT)
  samples = [
    Sample(f'{split}/{kind.name}/{image.name}', {'rgb': image}, None, kind.name)
    for kind in (list_folders(folder / split) if (folder / split).is_dir() else ())
    for image in list_images(kind)
  ]
  if not samples:
    raise UserError(f'There are no images in {folder / split}; expected layout: {LAYOUT}.')
  if split != 'test' or not (folder / 'ground_truth').is_dir():
    return samples
  saturations = _read_saturations(folder / _CONFIG)
  return [_with_layers(sample, folder, saturations) for sample in samples]


def _with_layers(sample: Sample, folder: Path, saturations: tuple[Saturation, ...]) -> Sample:
  """An anomalous sample with the masks of its defects, one file each."""
  if sample.defect == GOOD:
    return sample
  masks = folder / 'ground_truth' / sample.defect / sample.stem
  layers = tuple(list_images(masks))
  if not layers:
    refuse(
      MASKLESS,
      masks,
      f'{sample.image} has no masks: {masks}/*.png are expected; extract the whole archive, or '
      f'remove {folder / "ground_truth"} to do without pixel metrics.',
    )
    return sample
  return dataclasses.replace(sample, mask=LayeredMask(layers, saturations))


@functools.lru_cache(maxsize=len(CATEGORIES))
def _read_saturations(path: Path) -> tuple[Saturation, ...]:
  """What `defects_config.json` says of how much of each kind of defect has to be found."""
  try:
    entries = json.loads(read_text(path, _MAX_CONFIG))
    if not isinstance(entries, list) or not entries:
      raise ValueError('it lists no defects')
    found = tuple(map(_saturation, entries))
    if len({saturation.value for saturation in found}) < len(found):
      raise ValueError('a pixel_value is there twice')
  except FileNotFoundError as error:
    raise UserError(
      f'There is no {path}, which says how much of each defect has to be found; extract the '
      'whole archive.'
    ) from error
  except (OSError, ValueError, RecursionError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(f'{path} cannot be used ({reason}); extract it again.') from error
  return found


def _saturation(entry: Any) -> Saturation:
  """An entry of the file; raises ValueError where it is not as the publisher writes it."""
  if not isinstance(entry, dict):
    raise ValueError('an entry is no object')
  value, threshold = entry.get('pixel_value'), entry.get('saturation_threshold')
  relative = entry.get('relative_saturation')
  if type(value) is not int or not 1 <= value <= 255:
    raise ValueError(f'pixel_value is {value!r}, no number from 1 to 255')
  if type(relative) is not bool:
    raise ValueError(f'relative_saturation of {value} is {relative!r}, not true or false')
  if isinstance(threshold, bool) or not isinstance(threshold, int | float):
    raise ValueError(f'saturation_threshold of {value} is {threshold!r}, no number')
  if not 0 < threshold <= (1 if relative else 1e9):
    raise ValueError(f'saturation_threshold of {value} is {threshold!r}')
  return Saturation(value, float(threshold), relative)


DATASET = Dataset(
  CATEGORIES,
  'Get MVTec LOCO AD from https://www.mvtec.com/company/research/datasets/mvtec-loco',
  LAYOUT,
  list_samples,
  has_validation=True,
)
