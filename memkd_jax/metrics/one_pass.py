"""All four pixel metrics of a test set in one pass over its images."""

from collections.abc import Iterable

from numpy.typing import ArrayLike

from memkd_jax.metrics.binned import BinnedPixelScores
from memkd_jax.metrics.pixels import PixelMetrics, PixelScores


def evaluate_pixels(
  masks: Iterable[ArrayLike],
  maps: Iterable[ArrayLike],
  fpr_limit: float = 0.3,
  bins: int | None = None,
) -> PixelMetrics:
  """P-AUC, P-AP, P-PRO and P-F1max from one sort of the pixels (protocol, metrics).

  Args:
    masks: ground truth, [N, H, W] or N arrays [H_i, W_i], generators too; any non-zero value is
      anomalous, and what a masked array masks is left out.
    maps: anomaly maps of the same shapes, real and finite.
    fpr_limit: the false-positive rate at which the PRO curve ends, in (0, 1].
    bins: None for the exact metrics; a power of two for constant memory, which
      gives a `BinnedPixelMetrics` that states the bounds of its errors.

  Returns:
    Without bins equal to `auroc`, `average_precision`, `aupro` and `f1_max`.

  Raises:
    ValueError: the numbers or shapes differ, a value is not allowed, or there is
      no anomalous or no normal pixel.

  >>> evaluate_pixels([[[1, 0, 0, 1]]], [[[0.9, 0.2, 0.5, 0.3]]], fpr_limit=0.5).aupro
  0.5
  >>> evaluate_pixels([[[1, 0, 0, 1]]], [[[0.9, 0.2, 0.5, 0.3]]], bins=1024).auroc_error
  0.0
  """
  pixels = PixelScores() if bins is None else BinnedPixelScores(bins)
  add_images(pixels, masks, maps)
  return pixels.evaluate(fpr_limit)


def collect_pixels(masks: Iterable[ArrayLike], maps: Iterable[ArrayLike]) -> PixelScores:
  """Collects masks and maps pair by pair; arguments and errors as `evaluate_pixels`.

  >>> collect_pixels([[[1, 0]]], [[[0.9, 0.2]]]).aupro_at([0.3])
  {0.3: 1.0}
  """
  pixels = PixelScores()
  add_images(pixels, masks, maps)
  return pixels


def add_images(
  pixels: PixelScores | BinnedPixelScores, masks: Iterable[ArrayLike], maps: Iterable[ArrayLike]
) -> None:
  """Adds masks and maps pair by pair; arguments and errors as `evaluate_pixels`."""
  pairs = zip(masks, maps, strict=True)
  while True:
    try:
      mask, map_ = next(pairs)
    except StopIteration:
      return
    except ValueError as error:
      raise ValueError('masks and maps have different numbers of images') from error
    pixels.add(mask, map_)
