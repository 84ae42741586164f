"""MemMKD, the forward paradigm (method, section 3): the student sees the image."""

import jax
from flax import linen as nn

from memkd_jax.errors import UserError
from memkd_jax.models.distiller import Distilled, Distiller
from memkd_jax.models.layers import Conv
from memkd_jax.models.resnet import ARCHITECTURES, ResidualStage
from memkd_jax.ops.pooling import max_pool


class ForwardDistiller(Distiller):
  """A residual network from scratch with memories behind its stages.

  Without memories this is multiresolution distillation, the baseline. M_1 acts on
  F_S^1 and M_2 on F_S^2; each feeds the stage behind it. Attributes are those of
  `Distiller`, and:

  Attributes:
    student: the student, a key of `ARCHITECTURES`.
    projection: whether a 1x1 convolution brings student stages of other widths to
      the teacher's; what it gives is F_S^k, for the loss and the stage behind.
  """

  TARGET_OFFSET = 0
  RUNNING_ORDER = (1, 2, 3)
  STAGE_NAME = 'encoder'

  student: str = 'resnet50'
  projection: bool = False

  def setup(self) -> None:
    teacher, student = ARCHITECTURES[self.arch], ARCHITECTURES[self.student]

    def conv(features: int, kernel_size: int, stride: int = 1) -> Conv:
      return Conv(features, kernel_size, stride, self.folded, self.dtype, self.axis_name)

    built = self.built_stages(self.stages)
    self.stem = conv(student.planes, 7, 2)
    self.encoder = {
      f'stage{k}': ResidualStage(
        student, k, 1 if k == 1 else 2, self.folded, self.dtype, self.axis_name
      )
      for k in built
    }
    self.project = {
      f'stage{k}': conv(teacher.channels(k), 1)
      for k in built
      if self.projection and student.channels(k) != teacher.channels(k)
    }
    self.memory = self._build_memories()

  def __call__(
    self, images: jax.Array, features: tuple[jax.Array, ...], train: bool = False
  ) -> Distilled:
    """Reproduces the teacher's features of an image from the image.

    Args:
      images: [B, H, W, 3], normalised.
      features: not looked at; the reverse paradigm takes them.
      train: whether batch statistics are used and updated.

    Returns:
      The student's features of the distilled stages.
    """
    x = max_pool(nn.relu(self.stem(images, train)))
    outputs = {}
    for k in self.built_stages(self.stages):
      x = self.encoder[f'stage{k}'](x, train)
      if f'stage{k}' in self.project:
        x = self.project[f'stage{k}'](x, train)
      if k in self.stages:
        outputs[k] = x
      x = self._with_normality(x, k)
    return Distilled(outputs)


def check_pair(teacher: str, student: str, projection: bool) -> None:
  """Raises UserError where a student's stages are not as wide as its teacher's."""
  widths = [
    tuple(ARCHITECTURES[arch].channels(k) for k in (1, 2, 3)) for arch in (teacher, student)
  ]
  if not projection and widths[0] != widths[1]:
    raise UserError(
      f'--config.model.student={student}: its stages have {widths[1]} channels and those of '
      f'the teacher {teacher} {widths[0]}; give a student of the same widths, or '
      '--config.model.projection=True.'
    )
