"""MemKD, the reverse paradigm (method, section 2): images from their embedding."""

import jax

from memkd_jax.models.bottleneck import Bottleneck
from memkd_jax.models.decoder import DecoderStage
from memkd_jax.models.distiller import Distilled, Distiller
from memkd_jax.models.resnet import ARCHITECTURES


class ReverseDistiller(Distiller):
  """Bottleneck, memories and decoder; without memories this is RD, the baseline.

  M_3 acts on phi, M_2 on F_S^3, M_1 on F_S^2. Attributes are those of `Distiller`.
  """

  TARGET_OFFSET = 1
  RUNNING_ORDER = (3, 2, 1)
  STAGE_NAME = 'student'

  def setup(self) -> None:
    arch = ARCHITECTURES[self.arch]
    self.bottleneck = Bottleneck(arch, self.folded, self.dtype, self.axis_name)
    self.student = {
      f'stage{k}': DecoderStage(arch, k, self.folded, self.dtype, self.axis_name)
      for k in self.built_stages(self.stages)
    }
    self.memory = self._build_memories()

  def __call__(
    self, images: jax.Array, features: tuple[jax.Array, ...], train: bool = False
  ) -> Distilled:
    """Reproduces the teacher's features of an image from their embedding.

    Args:
      images: not looked at; the forward paradigm takes them.
      features: teacher stages 1 to 3, [B, H_k, W_k, C_k].
      train: whether batch statistics are used and updated.

    Returns:
      The student's features of the distilled stages, and the embedding.
    """
    embedding = self.bottleneck(features, train)
    x, outputs = embedding, {}
    for k in self.built_stages(self.stages):
      x = self.student[f'stage{k}'](self._with_normality(x, k), train)
      if k in self.stages:
        outputs[k] = x
    return Distilled(outputs, embedding)
