"""What the demo's teacher learns to foretell of each place: energies of Gabor filters there.

A quadrature pair of Gabor filters answers to stripes of one wavelength and orientation; the
sum of its two squares, averaged around a place, says how much of them there is, wherever the
stripes lie (Daugman 1985; Jain and Farrokhnia 1991 tell textures by them).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

WAVELENGTHS = (2.2, 3.6, 6.0, 10.0)  # pixels
ORIENTATIONS = 8
# Of the Gaussian that averages energies, in pixels, by the stride of a stage.
SIGMAS = {4: 2.5, 8: 4.0, 16: 6.0}
NUMBER = len(WAVELENGTHS) * ORIENTATIONS

_ELONGATION = 2  # the envelope along the stripes over that across
_REACH = 12  # pixels from a filter's centre to its border
_GREY = np.array([[0.299], [0.587], [0.114]], np.float32)
_RIDGE = 0.02  # added to the variances; directions that vary less are hardly amplified


def filters() -> np.ndarray:
  """float32 [25, 25, 1, 2 * 32], even and odd in turn; each sums to 0, its moduli to 1."""
  y, x = np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1]
  made = []
  for wavelength in WAVELENGTHS:
    for i in range(ORIENTATIONS):
      angle = i * np.pi / ORIENTATIONS
      across = (x * np.cos(angle) + y * np.sin(angle)) / wavelength
      along = (y * np.cos(angle) - x * np.sin(angle)) / wavelength
      envelope = np.exp(-2 * (across**2 + (along / _ELONGATION) ** 2))
      phase = 2 * np.pi * across
      for wave in (np.cos(phase), np.sin(phase)):
        kernel = envelope * wave
        kernel -= envelope * kernel.sum() / envelope.sum()
        made.append(kernel / np.abs(kernel).sum())
  return np.stack(made, -1)[:, :, None].astype(np.float32)


def energies(images: jax.Array, stride: int) -> jax.Array:
  """Logarithms of energies around a stage's positions, whatever the contrast.

  Args:
    images: [B, S, S, 3] in 0 to 255.
    stride: of the stage, a key of `SIGMAS`.

  Returns:
    float32 [B, ceil(S / stride), ceil(S / stride), 32], of mean 0 at each position, so that
    a factor on all energies changes nothing; those below one grey value squared hardly count.
  """
  size = images.shape[1]
  grey = jnp.pad(images @ _GREY, ((0, 0), (_REACH,) * 2, (_REACH,) * 2, (0, 0)), 'reflect')
  answers = jax.lax.conv_general_dilated(
    grey, jnp.asarray(filters()), (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  energy = answers[..., 0::2] ** 2 + answers[..., 1::2] ** 2
  # The convolutions pad by half a kernel, so position i looks at pixel stride * i.
  centres = stride * np.arange(-(-size // stride))
  window = np.exp(-((np.arange(size) - centres[:, None]) ** 2) / (2 * SIGMAS[stride] ** 2))
  window = (window / window.sum(1, keepdims=True)).astype(np.float32)
  log = jnp.log1p(jnp.einsum('bhwc,ih,jw->bijc', energy, window, window))
  return log - log.mean(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Whitening:
  """Makes all directions of the energies vary alike, so that none is learnt alone.

  Attributes:
    mean: [C].
    matrix: [C, C], symmetric.
  """

  mean: np.ndarray
  matrix: np.ndarray

  @classmethod
  def of(cls, sample: np.ndarray, ridge: float = _RIDGE) -> 'Whitening':
    """Takes mean and covariance of [..., C]; `ridge` is added to the variances."""
    rows = np.asarray(sample, np.float64).reshape(-1, sample.shape[-1])
    variances, directions = np.linalg.eigh(np.cov(rows.T) + ridge * np.eye(rows.shape[1]))
    matrix = directions / np.sqrt(variances) @ directions.T
    return cls(rows.mean(0).astype(np.float32), matrix.astype(np.float32))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., C] -> [..., C]."""
    return (x - self.mean) @ self.matrix
