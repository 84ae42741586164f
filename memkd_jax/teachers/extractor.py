"""The one door from uint8 images to the features of a frozen teacher."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memkd_jax.data.image_store import Scratch
from memkd_jax.errors import UserError
from memkd_jax.models.resnet import ARCHITECTURES, Teacher
from memkd_jax.ops.normalization import normalize_images
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers import weights
from memkd_jax.teachers.kept_features import KeptFeatures

RANDOM = 'random'
DEMO_FILE = Path(__file__).with_name('demo_teacher.safetensors')


class FeatureExtractor:
  """A frozen ImageNet network (method, section 1) as a pure function of its parameters.

  Attributes:
    arch: the network's name, a key of `ARCHITECTURES`.
    dtype: dtype of the features and of all arithmetic.
    params: the network's parameters, numpy arrays of `dtype`.
    depth: the number of stages that the weights hold, 3 or 4.
    digest: sha256 of the weights' file in hexadecimal, or 'random'.
    notes: sentences that must stand beside the figures.
    kept: the features of images that others have learned from or will; None where nobody has.
    scratch: where features that do not fit into memory may be kept in files; None for nowhere.
  """

  # The sides of an image must be multiples of this, in pixels.
  MULTIPLE = 32

  def __init__(
    self, arch: str, source: str, dtype: str = 'float32', kept: KeptFeatures | None = None
  ):
    """Loads the weights.

    Args:
      arch: the network's name, a key of `ARCHITECTURES`.
      source: path of a converted file, or 'random'.
      dtype: what is computed in, 'float32', 'bfloat16' or 'float64'.
      kept: where features of training images are kept, for those who learn from the same ones;
        None to keep none.

    Raises:
      UserError: the weights are missing, damaged or of another network; or float64 is
        asked for while JAX computes with 32 bits.
    """
    if dtype == 'float64' and not jax.config.read('jax_enable_x64'):
      raise UserError('--config.model.dtype=float64 needs JAX_ENABLE_X64=1 in the environment.')
    self.arch, self.kept = arch, kept
    self.scratch: Scratch | None = None
    self.dtype = jnp.dtype(dtype)
    self.notes: list[str] = []
    self._shapes: dict[Any, tuple[jax.ShapeDtypeStruct, ...]] = {}
    if source == RANDOM:
      self.notes.append('The teacher is random, not pretrained: THESE FIGURES MEAN NOTHING.')
      params, self.digest = weights.random_teacher(arch), RANDOM
    else:
      _, params = weights.load(source, arch)
      self.digest = weights.sha256(source)
      if source == str(DEMO_FILE.absolute()):
        self.notes.append(
          'The teacher is the small one of the demo, trained on a few photographs: for other '
          'images take one of ImageNet.'
        )
    self.params: Any = jax.tree.map(lambda x: np.asarray(x).astype(self.dtype), params)
    self.depth = 4 if 'stage4' in params else 3

  def __call__(self, params: Any, images: jax.Array, stages: int = 3) -> tuple[jax.Array, ...]:
    """Computes the features F_T^1 to F_T^stages.

    Args:
      params: the network's parameters, `self.params` on any device.
      images: uint8 [B, H, W, 3], RGB; of M pictures of an object [B, H, W, 4 M].
      stages: the number of stages, at most `self.depth`.

    Returns:
      [B, H_k, W_k, C_k] of `self.dtype` for each stage k; of M pictures [B M, H_k, W_k, C_k],
      those of an object one after the other.
    """
    if images.shape[-1] > 4:
      # Slices, and a batch that is what is left: converted formats have no split, and may not
      # know how many images there are.
      layers = [images[..., i : i + 4] for i in range(0, images.shape[-1], 4)]
      images = jnp.stack(layers, axis=1).reshape(-1, *images.shape[1:3], 4)
    teacher = Teacher(self.arch, stages=stages, dtype=self.dtype)
    features: Any = teacher.apply({'params': params}, self.normalize(images))
    return features

  def kept_features(
    self,
    images: np.ndarray,
    depth: int,
    devices: Devices,
    compute: Callable[[], Sequence[np.ndarray]],
  ) -> tuple[np.ndarray, ...] | None:
    """The features of all training images, where several learn from the same ones.

    Args:
      images: the training images, uint8 [N, H, W, channels].
      depth: the number of stages whose features are wanted.
      devices: the devices that compute, whose processes all decide alike.
      compute: gives the features, [N, H_k, W_k, C_k] each, where they are not there yet.

    Returns:
      [N, H_k, W_k, C_k] of each stage; None where nobody shares them, or the host's memory is
      too small: then nothing was computed.
    """
    if self.kept is None:
      return None
    _, free = devices.free_memory()
    teacher, size = f'{self.arch} {self.digest} {self.dtype}', self.feature_bytes(images, depth)
    return self.kept.take(teacher, images, depth, compute, size=size, free=free)

  def normalize(self, images: jax.Array) -> jax.Array:
    """What the network sees of uint8 images [B, H, W, 3]: `self.dtype`, same shape."""
    return normalize_images(images, self.dtype)

  def channels(self, stage: int) -> int:
    """C_k of stage 1 to 4."""
    return ARCHITECTURES[self.arch].channels(stage)

  def stride(self, stage: int) -> int:
    """How many pixels of the image one position of stage 1 to 4 stands for, in a row."""
    return 2 ** (stage + 1)

  def shapes(
    self, image_size: tuple[int, ...], stages: int = 3
  ) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes [1, H_k, W_k, C_k] and dtypes of one image's features.

    Args:
      image_size: (height, width) of the image in pixels.
      stages: the number of stages whose shapes are wanted.
    """
    which = (tuple(image_size), stages)
    if which not in self._shapes:  # to trace a large network takes half a second
      image = jax.ShapeDtypeStruct((1, *image_size, 3), np.uint8)
      shapes: Any = jax.eval_shape(lambda p, x: self(p, x, stages), self.params, image)
      self._shapes[which] = shapes
    return self._shapes[which]

  def feature_bytes(self, images: np.ndarray, stages: int) -> int:
    """The size of the features of some images, uint8 [N, H, W, channels]; see `__call__`."""
    shapes = self.shapes(images.shape[1:3], stages)
    pictures = max(1, images.shape[-1] // 4)
    return len(images) * pictures * sum(stage.size * stage.dtype.itemsize for stage in shapes)
