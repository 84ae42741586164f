"""Trains the teacher of the demo on photographs that scikit-image and scikit-learn bundle.

  pip install -e '.[dev]'
  python tools/train_demo_teacher.py --out=memkd_jax/teachers/demo_teacher.safetensors

Self-supervised, in each stage, by two tasks. The mean feature of one view of a place must be
more similar to that of another view of the place than to those of all other places in the
batch (NT-Xent of SimCLR, Chen et al. 2020, with the exemplars of Dosovitskiy et al. 2014 as
classes). And the feature at each position must tell, linearly, the energies of Gabor filters
there before the light was changed (as MaskFeat, Wei et al. 2022, has HOG told), so that it
says what is here, and not only where in which photograph one is. The same seed gives the same
file on the same machine. The BatchNorms are folded as in any teacher; values are stored as
bfloat16.
"""

import sys
import time
from pathlib import Path
from typing import Any

import gabor_energies
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from demo_photographs import draw_pairs, load
from flax import linen as nn
from gabor_energies import Whitening
from jax.typing import ArrayLike

from memkd_jax import __version__
from memkd_jax.errors import UserError, explain
from memkd_jax.models.folding import fold_batch_norm
from memkd_jax.models.layers import Conv
from memkd_jax.models.resnet import ARCHITECTURES, ResidualStage
from memkd_jax.ops.normalization import normalize_images
from memkd_jax.ops.pooling import max_pool
from memkd_jax.teachers import weights

_OUT = flags.DEFINE_string('out', None, 'The safetensors file to write.', required=True)
_ARCH = flags.DEFINE_enum('arch', 'resnet18', list(ARCHITECTURES), 'Architecture.')
_STEPS = flags.DEFINE_integer('steps', 500, 'Training steps.', lower_bound=1)
_APART = flags.DEFINE_integer('apart', 12, 'Photographs in a batch.', lower_bound=1)
_TOGETHER = flags.DEFINE_integer('together', 16, 'Places in each of them.', lower_bound=2)
# 34, because XLA convolves on a CPU thrice as slowly where stage 3 has 2 x 2 positions.
_SIDE = flags.DEFINE_integer('side', 34, 'Pixels of a view.', lower_bound=16, upper_bound=64)
_SEED = flags.DEFINE_integer('seed', 0, 'Of initialisation and data.', lower_bound=0)

_STRIDES = {1: 4, 2: 8, 3: 16}  # of each stage
_TEMPERATURE = 0.2
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-4
_LOG_STEPS = 25


class Encoder(nn.Module):
  """The teacher before its BatchNorms are folded, with two heads behind each stage.

  Attributes:
    arch: a key of `ARCHITECTURES`.
  """

  arch: str

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = True
  ) -> list[tuple[jax.Array, jax.Array]]:
    """[B, H, W, 3], normalised -> for each stage the embeddings and the energies foretold.

    Embeddings are [B, 64], of length 1; energies [B, H', W', 32], whitened.
    """
    arch = ARCHITECTURES[self.arch]
    x = max_pool(nn.relu(Conv(arch.planes, 7, 2, name='stem')(images, train)))
    outputs = []
    for k in _STRIDES:
      x = ResidualStage(arch, k, Conv, 1 if k == 1 else 2, name=f'stage{k}')(x, train)
      hidden = nn.relu(nn.Dense(256, name=f'hidden{k}')(x.mean((1, 2))))
      embedding = nn.Dense(64, name=f'embedding{k}')(hidden)
      embedding /= jnp.linalg.norm(embedding, axis=-1, keepdims=True) + 1e-6
      outputs.append((embedding, nn.Dense(gabor_energies.NUMBER, name=f'energies{k}')(x)))
    return outputs


def contrast(embeddings: jax.Array, temperature: float = _TEMPERATURE) -> jax.Array:
  """NT-Xent, the mean over all views.

  Args:
    embeddings: [2N, C], of length 1; i and N + i are views of the same place.
    temperature: divides the cosines.
  """
  number = len(embeddings)
  logits = embeddings @ embeddings.T / temperature
  logits = jnp.where(jnp.eye(number, dtype=bool), -jnp.inf, logits)
  partners = (jnp.arange(number) + number // 2) % number
  return optax.softmax_cross_entropy_with_integer_labels(logits, partners).mean()


def energies_of(plain: ArrayLike) -> list[jax.Array]:
  """Of [2, N, S, S, 3], what each stage is to tell: [2N, H', W', 32]."""
  return [gabor_energies.energies(_flat(plain), stride) for stride in _STRIDES.values()]


def _flat(pairs: ArrayLike) -> jax.Array:
  """[2, N, S, S, 3] -> [2N, S, S, 3]."""
  return jnp.reshape(jnp.asarray(pairs), (-1, *np.shape(pairs)[2:]))


def train() -> dict[str, Any]:
  """Returns the folded parameters for `Teacher`, stages 1 to 3, bfloat16.

  Raises:
    UserError: photographs are missing, or training diverged.
  """
  photographs = list(load().values())
  if _APART.value > len(photographs):
    raise UserError(f'--apart={_APART.value}: there are {len(photographs)} photographs.')
  network = Encoder(_ARCH.value)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, _LEARNING_RATE, min(50, _STEPS.value // 10), _STEPS.value
  )
  optimizer = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)

  @jax.jit
  def initialise() -> Any:
    images = jnp.zeros((2, _SIDE.value, _SIDE.value, 3))
    return network.init(jax.random.key(_SEED.value), images)

  @jax.jit
  def step(
    params: Any, statistics: Any, memory: Any, pairs: ArrayLike, plain: ArrayLike
  ) -> Any:
    views = normalize_images(_flat(pairs))
    targets = [whiten(x) for whiten, x in zip(whitenings, energies_of(plain), strict=True)]

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
      variables = {'params': params, 'batch_stats': statistics}
      outputs: Any
      outputs, updated = network.apply(variables, views, mutable=['batch_stats'])
      contrasts = jnp.stack([contrast(embedding) for embedding, _ in outputs])
      errors = jnp.stack(
        [((told - x) ** 2).mean() for (_, told), x in zip(outputs, targets, strict=True)]
      )
      losses = jnp.stack([contrasts, errors])
      return losses.sum(), (losses, updated['batch_stats'])

    (_, (losses, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, memory = optimizer.update(gradients, memory, params)
    return optax.apply_updates(params, updates), updated, memory, losses

  def draw(i: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([_SEED.value, i])
    return draw_pairs(photographs, _TOGETHER.value, _APART.value, _SIDE.value, generator)

  # Of a batch that no step takes.
  whitenings = [
    Whitening.of(np.asarray(x)) for x in jax.jit(energies_of)(draw(_STEPS.value)[1])
  ]
  variables = initialise()
  params, statistics = variables['params'], variables['batch_stats']
  memory = optimizer.init(params)
  start = time.perf_counter()
  for i in range(_STEPS.value):
    params, statistics, memory, losses = step(params, statistics, memory, *draw(i))
    if (i + 1) % _LOG_STEPS == 0 or i + 1 == _STEPS.value:
      contrasts, errors = (' '.join(f'{x:.3f}' for x in row) for row in np.asarray(losses))
      left = (time.perf_counter() - start) / (i + 1) * (_STEPS.value - i - 1)
      shown = f'contrast {contrasts}, energies {errors}, {left:.0f} s left'
      print(f'step {i + 1}/{_STEPS.value}: {shown}', flush=True)
      if not np.isfinite(losses).all():
        raise UserError(f'Training diverged at step {i + 1}; try another --seed.')
  kept = {name: x for name, x in params.items() if name in statistics}
  folded = fold_batch_norm(kept, statistics)
  return jax.tree.map(lambda x: np.asarray(x).astype(jnp.bfloat16), folded)


def metadata() -> dict[str, Any]:
  """Where the weights come from, and how to make them again."""
  return {
    'origin': (
      'self-supervised on photographs bundled with scikit-image and scikit-learn; of brick, '
      'grass and gravel only the upper two thirds'
    ),
    'method': 'NT-Xent between views of places and energies of Gabor filters, at each stage',
    'photographs': sorted(load()),
    'command': (
      f'python tools/train_demo_teacher.py --arch={_ARCH.value} --steps={_STEPS.value} '
      f'--apart={_APART.value} --together={_TOGETHER.value} --side={_SIDE.value} '
      f'--seed={_SEED.value}'
    ),
    'dtype': 'bfloat16',
    'version': __version__,
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  out = Path(_OUT.value).expanduser()
  try:
    weights.save_teacher(out, _ARCH.value, train(), metadata())
    print(f'{out}: {_ARCH.value}, {out.stat().st_size / 1e6:.2f} MB')
  except UserError as error:
    sys.exit(f'train_demo_teacher: {error}')
  except OSError as error:
    sys.exit(f'train_demo_teacher: {explain(error)}')
  except KeyboardInterrupt:
    sys.exit('train_demo_teacher: interrupted; nothing is written.')


if __name__ == '__main__':
  app.run(main)
