"""cases/: the same test images whatever the method, so that runs can be laid side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.data.sample import GOOD
from memkd_jax.data.splits import Split
from memkd_jax.files import atomic
from memkd_jax.report.overlay import colors, common_range, counting

FOLDER = 'cases'
_NUMBER = 6
_TILE, _GAP = 128, 4  # pixels


def choose_same(defects: list[str]) -> list[int]:
  """Picks images by their kind alone, not by any score.

  Args:
    defects: the kind of each image, 'good' for a normal one, in the order of the test.

  Returns:
    Ascending indices of at most 6: the middle one of each kind, a normal one among them, and
    where there are fewer kinds further ones.
  """
  kinds = sorted(set(defects), key=lambda kind: (kind != GOOD, kind))
  of_kind = {kind: [i for i, d in enumerate(defects) if d == kind] for kind in kinds}
  # The middle first, then those after it, and round again.
  turned = {k: own[len(own) // 2 :] + own[: len(own) // 2] for k, own in of_kind.items()}
  longest = max(map(len, of_kind.values()), default=0)
  rounds = [own[r] for r in range(longest) for own in turned.values() if r < len(own)]
  return sorted(rounds[:_NUMBER])


def write_cases(folder: Path, test: Split, maps: np.ndarray) -> None:
  """Writes strips of a few test images, each file complete or not at all.

  Args:
    folder: where image.png, truth.png (without masks not) and map.png go.
    test: the decoded split of N images.
    maps: anomaly maps [N, H, W], or objects [N], which share one scale of colours.
  """
  chosen = choose_same([sample.defect for sample in test.samples])
  if not chosen:
    return
  shown = [counting(map_, test.seen(i)) for i, map_ in enumerate(maps)]
  low, high = common_range(shown)

  def colored(map_: np.ndarray) -> np.ndarray:
    heat = np.clip((map_ - low) / max(high - low, 1e-12), 0, 1)
    return np.rint(255 * colors()(heat)[..., :3]).astype(np.uint8)

  strips = {
    'image': [test.images[i][..., :3] for i in chosen],
    'map': [colored(shown[i]) for i in chosen],
  }
  if test.masks is not None:
    masks = (255 * test.masks[i].astype(np.uint8) for i in chosen)
    strips['truth'] = [np.repeat(mask[..., None], 3, axis=-1) for mask in masks]
  for name, tiles in strips.items():
    with atomic.atomic_write(folder / f'{name}.png') as temporary:
      _strip(tiles).save(temporary)


def _strip(tiles: Sequence[np.ndarray]) -> Image.Image:
  """Puts images uint8 [H, W, 3] side by side, small."""
  step = _TILE + _GAP
  strip = Image.new('RGB', (len(tiles) * step - _GAP, _TILE), 'white')
  for i, tile in enumerate(tiles):
    small = Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.BILINEAR)
    strip.paste(small, (i * step, 0))
  return strip
