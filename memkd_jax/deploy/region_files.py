"""Regions as files: a row each in regions.csv, and COCO's JSON for tools that show boxes."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from memkd_jax.data.listing import COCO, REGIONS
from memkd_jax.files import atomic
from memkd_jax.scoring.regions import FACTS, Region, run_lengths

_REGIONS, _PARTIAL = REGIONS
_CATEGORY = 1  # COCO counts from 1


class RegionFiles:
  """regions.csv and regions.coco.json as a context manager; both are there at its end."""

  def __init__(self, out: Path, category: str):
    """Takes the folder, which exists, and the name of what the regions are defects of."""
    self._out, self._category = out, category
    self._images: list[dict[str, Any]] = []
    self._annotations: list[dict[str, Any]] = []

  def __enter__(self) -> 'RegionFiles':
    """Begins regions.partial.csv."""
    self._partial = self._out / _PARTIAL
    self._file = self._partial.open(
      'w', newline='', encoding='utf-8', errors='backslashreplace'
    )
    self._csv = csv.writer(self._file)
    self._csv.writerow(['path', *FACTS])
    return self

  def add(self, name: str, size: tuple[int, int], regions: Sequence[Region]) -> None:
    """Takes the regions of an image.

    Args:
      name: name of the image, as in scores.csv.
      size: (width, height) of the image in pixels.
      regions: regions of the image; there may be none.
    """
    width, height = size
    number = len(self._images) + 1
    image = {'id': number, 'file_name': name, 'width': width, 'height': height}
    self._images.append(image)
    for region in regions:
      with atomic.naming(self._partial):
        self._csv.writerow([name, *map(_short, region.facts().values())])
      self._annotations.append(
        {
          'id': len(self._annotations) + 1,
          'image_id': number,
          'category_id': _CATEGORY,
          'bbox': [region.left, region.top, region.width, region.height],
          'area': region.area,
          'segmentation': {'size': [height, width], 'counts': run_lengths(region, size)},
          'iscrowd': 1,  # COCO's word for run lengths in place of polygons
          'score': region.score,
        }
      )

  def __exit__(
    self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
  ) -> None:
    """Renames it to regions.csv and writes the other, unless something went wrong."""
    with atomic.naming(self._partial):
      self._file.close()
      if kind is None:
        self._partial.replace(self._out / _REGIONS)
    if kind is None:
      content = {
        'images': self._images,
        'annotations': self._annotations,
        'categories': [{'id': _CATEGORY, 'name': 'anomaly', 'supercategory': self._category}],
      }
      atomic.write_json(self._out / COCO, content)


def _short(value: float) -> float | str:
  """A number as tables have it: float32 holds no more digits."""
  return format(value, '.6g') if isinstance(value, float) else value
