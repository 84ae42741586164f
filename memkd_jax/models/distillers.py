"""Students with memories that imitate teacher features, one class per paradigm."""

from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import linen as nn

from memkd_jax.errors import UserError
from memkd_jax.models.bottleneck import Bottleneck
from memkd_jax.models.decoder import DecoderStage
from memkd_jax.models.distiller import Distilled, Distiller, Slot
from memkd_jax.models.layers import Conv, UpConv, kaiming_normal, param_dtype
from memkd_jax.models.resnet import ARCHITECTURES, ResidualStage, Teacher
from memkd_jax.ops.pooling import max_pool


class ReverseDistiller(Distiller):
  """MemKD, the reverse paradigm (method, section 2): features from their embedding.

  Bottleneck, memories and decoder; without memories this is RD, the baseline. In the layout
  'before' M_3 acts on phi, M_2 on F_S^3 and M_1 on F_S^2. In 'aligned' a memory sits behind
  the stage of its number and imitates the same stage of the teacher: M_3 acts on F_S^3 and
  M_2 on F_S^2; behind F_S^1 nothing would take what M_1 recalls. Attributes are those of
  `Distiller`, and:

  Attributes:
    adapt: whether a trainable copy of the teacher feeds the bottleneck (section 10, after
      ReContrast). Two 1x1 convolutions behind each distilled stage then rebuild the features
      of both: F_S^k those of the frozen teacher, and `Distilled.rebuilt` those of the copy.
    pictures: M, how many pictures of an object are looked at together: the features of all of
      them feed one bottleneck, and a 1x1 convolution behind each distilled stage gives those
      of each. Features come and go as [B M, H, W, C] then, an object's one after the other.
  """

  SLOTS = MappingProxyType(
    {
      'before': (
        Slot(memory=3, stage=3, target=4),
        Slot(memory=2, stage=2, target=3),
        Slot(memory=1, stage=1, target=2),
      ),
      'aligned': (
        Slot(memory=3, stage=2, target=3),
        Slot(memory=2, stage=1, target=2),
      ),
    }
  )
  RUNNING_ORDER = (3, 2, 1)
  STAGE_NAME = 'student'

  adapt: bool = False
  pictures: int = 1

  def setup(self) -> None:
    arch = ARCHITECTURES[self.arch]
    conv, up_conv = self._partial(Conv), self._partial(UpConv)
    self.bottleneck = Bottleneck(arch, conv)
    self.student = {
      f'stage{k}': DecoderStage(arch, k, conv, up_conv) for k in self.built_stages(self.stages)
    }
    self.memory = self._build_memories()
    if self.adapt:
      self.teacher = Teacher(self.arch, 3, self.dtype)
      # For the frozen teacher and for the copy: from one map both cannot be rebuilt.
      self.head, self.adapted_head = (
        {f'stage{k}': self._linear(arch.channels(k)) for k in self.stages} for _ in range(2)
      )
    elif self.pictures > 1:
      self.head = {
        f'stage{k}': self._linear(self.pictures * arch.channels(k)) for k in self.stages
      }

  def __call__(
    self,
    images: jax.Array,
    features: tuple[jax.Array, ...],
    train: bool = False,
    on_features: Callable[[tuple[jax.Array, ...]], tuple[jax.Array, ...]] | None = None,
    on_embedding: Callable[[jax.Array], jax.Array] | None = None,
  ) -> Distilled:
    """Reproduces the teacher's features of an image from their embedding.

    Args:
      images: the images, [B, H, W, 3], normalised; looked at with an adapted teacher alone.
      features: teacher stages 1 to 3, [B, H_k, W_k, C_k]; of several pictures
        [B M, H_k, W_k, C_k].
      train: whether batch statistics are used and updated.
      on_features: disturbs what the bottleneck sees, [B, H_k, W_k, M C_k]; nothing does if
        None.
      on_embedding: disturbs what the first stage or the memory before it sees.

    Returns:
      The student's features of the distilled stages, and the embedding.
    """
    seen = self.teacher(images) if self.adapt else self._side_by_side(features)
    embedding = self.bottleneck(on_features(seen) if on_features else seen, train)
    outputs = self._run(on_embedding(embedding) if on_embedding else embedding, train)
    if not self.adapt:
      return Distilled(self._of_each_picture(outputs), embedding, {}, {})
    rebuilt, of_adapted = (
      {k: head[f'stage{k}'](x) for k, x in outputs.items()}
      for head in (self.head, self.adapted_head)
    )
    adapted = {k: jax.lax.stop_gradient(seen[k - 1]) for k in outputs}
    return Distilled(rebuilt, embedding, adapted, of_adapted)

  def _side_by_side(self, features: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The features of an object's pictures as channels: [B M, H, W, C] -> [B, H, W, M C]."""
    if self.pictures == 1:
      return features

    def joined(x: jax.Array) -> jax.Array:
      _, height, width, channels = x.shape
      of_object = x.reshape(-1, self.pictures, height, width, channels)
      return jnp.moveaxis(of_object, 1, 3).reshape(-1, height, width, self.pictures * channels)

    return tuple(map(joined, features))

  def _of_each_picture(self, outputs: dict[int, jax.Array]) -> dict[int, jax.Array]:
    """{k: F_S^k} of each picture from what the stages gave: [B, H, W, C] -> [B M, H, W, C]."""
    if self.pictures == 1:
      return outputs

    def parted(k: int, x: jax.Array) -> jax.Array:
      _, height, width, channels = x.shape
      of_object = self.head[f'stage{k}'](x).reshape(-1, height, width, self.pictures, channels)
      return jnp.moveaxis(of_object, 3, 1).reshape(-1, height, width, channels)

    return {k: parted(k, x) for k, x in outputs.items()}

  def _linear(self, channels: int) -> nn.Conv:
    dtype = param_dtype(self.dtype)
    return nn.Conv(
      channels, (1, 1), dtype=self.dtype, param_dtype=dtype, kernel_init=kaiming_normal
    )

  def _run_stage(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
    return self.student[f'stage{stage}'](x, train)


class ForwardDistiller(Distiller):
  """MemMKD, the forward paradigm (method, section 3): the student sees the image.

  A residual network from scratch with memories behind its stages; without memories this
  is multiresolution distillation, the baseline. M_1 acts on F_S^1 and M_2 on F_S^2; each
  feeds the stage behind it. Attributes are those of `Distiller`, and:

  Attributes:
    student: the student, a key of `ARCHITECTURES`.
    projection: whether a 1x1 convolution brings student stages of other widths to
      the teacher's; what it gives is F_S^k, for the loss and the stage behind.
  """

  SLOTS = MappingProxyType(
    {'before': (Slot(memory=1, stage=2, target=1), Slot(memory=2, stage=3, target=2))}
  )
  RUNNING_ORDER = (1, 2, 3)
  STAGE_NAME = 'encoder'

  student: str = 'resnet50'
  projection: bool = False

  def setup(self) -> None:
    teacher, student = ARCHITECTURES[self.arch], ARCHITECTURES[self.student]
    conv = self._partial(Conv)
    built = self.built_stages(self.stages)
    self.stem = conv(student.planes, 7, 2)
    self.encoder = {
      f'stage{k}': ResidualStage(student, k, conv, stride=1 if k == 1 else 2) for k in built
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
      images: the images, [B, H, W, 3], normalised.
      features: the teacher's stages, not looked at; the reverse paradigm takes them.
      train: whether batch statistics are used and updated.

    Returns:
      The student's features of the distilled stages.
    """
    outputs = self._run(max_pool(nn.relu(self.stem(images, train))), train)
    return Distilled(outputs, None, {}, {})

  def _run_stage(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
    x = self.encoder[f'stage{stage}'](x, train)
    if f'stage{stage}' in self.project:
      x = self.project[f'stage{stage}'](x, train)
    return x


def check_pair(teacher: str, student: str, projection: bool) -> None:
  """Raises UserError where a student's stages are not as wide as its teacher's.

  Args:
    teacher: name of the teacher, a key of `ARCHITECTURES`.
    student: name of the student, a key of `ARCHITECTURES`.
    projection: whether the student's stages are brought to the teacher's widths.
  """
  widths = [
    tuple(ARCHITECTURES[arch].channels(k) for k in (1, 2, 3)) for arch in (teacher, student)
  ]
  if not projection and widths[0] != widths[1]:
    raise UserError(
      f'--config.model.student={student}: its stages have {widths[1]} channels and those of '
      f'the teacher {teacher} {widths[0]}; give a student of the same widths, or '
      '--config.model.projection=True.'
    )
