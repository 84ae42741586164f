"""CFA (Lee et al., IEEE Access 2022): features are drawn to a memory of normal ones.

Patches are those of `patches`, of the teacher's stages 1 to 3. A linear layer that sees its
place in the image (a 1x1 CoordConv) adapts them. The memory holds what that layer, before it
has learned anything, gives at each position, averaged over the training images. Learning draws
each patch to its K nearest centres of the memory and keeps it apart from the J that follow. A
patch is as abnormal as its distance to the nearest centre, weighed by a softmin over the K.

Numbers are those of the authors' code, which differs from the paper in two places. The memory
is a plain mean, where the paper has an exponential one over nearest centres
(`method.memory_rate` weighs later images more). And the radius is learned
(`method.learn_radius`): otherwise the repulsion stays zero, since a hypersphere of 1e-5 is
smaller than the margin. Here all images weigh the same in the mean, the last incomplete batch
of an epoch is not left out, k-means begins with random rows, and AMSGrad keeps the maximum of
the bias-corrected second moment, as in optax. The authors report the best epoch on the test
images; here the last one counts.
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.cluster import vq

from memkd_jax.config import Field
from memkd_jax.data.sampling import category_seed
from memkd_jax.errors import UserError
from memkd_jax.methods import descent_config, patches
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.models.layers import param_dtype
from memkd_jax.ops.neighbours import k_nearest
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor

if TYPE_CHECKING:
  from memkd_jax.methods.descent import Descent
  from memkd_jax.training.feature_cache import FeatureCache
  from memkd_jax.training.step import TrainState

_ITERATIONS = 100  # of k-means, which by then moves its centres no more to speak of
FIELDS = (
  *(
    dataclasses.replace(field, default=(1, 2, 3)) if field.name == 'method.stages' else field
    for field in patches.FIELDS
  ),
  Field(
    'method.gamma_d',
    1,
    'How many times fewer channels the descriptor gives than it sees',
    high=2**12,
    open_low=True,
  ),
  Field(
    'method.gamma_c',
    1,
    'How many times fewer centres than positions the memory holds, found by k-means; 1 keeps '
    'one for each position',
    high=2**12,
    open_low=True,
  ),
  Field(
    'method.memory_rate',
    0.0,
    'Weight of a further training image in the memory, an exponential mean; 0 weighs all alike',
    high=1,
  ),
  Field(
    'method.attracting',
    3,
    'Number K of the nearest centres that attract a patch, and that its score looks at',
    high=2**10,
    open_low=True,
  ),
  Field('method.repelling', 3, 'Number J of the centres after those that repel it', high=2**10),
  Field('method.radius', 1e-5, 'Radius r of the hypersphere around a centre', high=1e6),
  Field('method.learn_radius', True, 'Whether r is learned too, beginning with method.radius'),
  Field('method.margin', 0.1, 'Margin alpha of the repulsion', high=1e6),
  Field('method.nu', 1e-3, 'By which both losses are divided', high=1e6, open_low=True),
  *descent_config.fields(epochs=30, batch_size=4, learning_rate=1e-3),
  Field('train.weight_decay', 5e-4, "AdamW's weight decay", high=1e6),
)


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself."""
  return patches.resolve(config)


def create(config: ConfigDict, extractor: FeatureExtractor, devices: Devices) -> 'CFA':
  """Makes the method of a resolved config.

  Raises:
    UserError: the devices do not divide a batch.
  """
  return CFA(config, extractor, devices)


class CFA(Method):
  """Distances of adapted patches to a memory; attributes as in `Method`."""

  name = 'CFA'
  diagnosed_stages = ()

  def __init__(self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices):
    """See `create`."""
    self.stages = tuple(config.method.stages)
    self.notes: list[str] = []
    self._config, self._extractor, self._devices = config, extractor, devices
    self._patches = patches.Patches(config, extractor, devices)
    self._axis_name = descent_config.mapped_axis(config, devices)

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Fills the memory and trains the descriptor; resumes from the newest checkpoint."""
    self._check(images)
    cached = functools.cache(lambda: self._descent.teacher.cache(images))
    state, _ = self._descent.descend(
      task, images, folder, lambda: self._begin(task, cached()), cached
    )
    return Fitted({**state.params['descriptor'], **state.batch_stats}, {})

  def step_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, tuple[Any, ...]] | None:
    """See `Method`."""
    trained, memory = self._shapes(canvas)
    descent = self._descent
    return descent.train_step, descent.step_shapes(trained, {'memory': memory}, canvas)

  def param_shapes(self, canvas: tuple[int, int, int]) -> Any | None:
    """See `Method`."""
    trained, memory = self._shapes(canvas)
    return {**trained['descriptor'], 'memory': memory}

  def _shapes(self, canvas: tuple[int, int, int]) -> tuple[dict[str, Any], Any]:
    """Of what is trained, and of the memory."""
    fields, dtype = self._config.method, param_dtype(self._extractor.dtype)
    channels = sum(self._extractor.channels(k) for k in self.stages)
    width = max(1, channels // fields.gamma_d)
    trained: dict[str, Any] = {
      'descriptor': jax.eval_shape(
        lambda: init_descriptor(jax.random.key(0), channels, width, dtype)
      )
    }
    if fields.learn_radius:
      trained['radius'] = jax.ShapeDtypeStruct((), dtype)
    positions = self._patches.positions(np.empty((1, *canvas), np.uint8))
    return trained, jax.ShapeDtypeStruct((positions // fields.gamma_c, width), dtype)

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{0: softmin-weighted distance of each patch to the nearest centre}."""
    found = describe(self._patches(features), params['kernel'], params['bias'])
    flat = found.reshape(-1, found.shape[-1])
    distances = softmin_distances(flat, params['memory'], self._config.method.attracting)
    return {0: distances.reshape(found.shape[:-1])}

  def loss(
    self, params: Any, batch_stats: Any, images: jax.Array, features: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """Attraction and repulsion of a device's share of a batch.

    Args:
      params: {'descriptor': {'kernel', 'bias'}}, and 'radius' where it is learned.
      batch_stats: {'memory': [M, D]}, which stays as it is.
      images: the images of the batch, which are not looked at.
      features: the teacher's stages, [B, H_k, W_k, C_k].

    Returns:
      (loss, ({name: scalar that is logged}, batch_stats)).
    """
    fields = self._config.method
    found = describe(self._patches(features), **params['descriptor'])
    radius = params.get('radius', fields.radius)
    attraction, repulsion = coupled_losses(
      found.reshape(-1, found.shape[-1]),
      batch_stats['memory'],
      radius,
      attracting=fields.attracting,
      repelling=fields.repelling,
      margin=fields.margin,
      nu=fields.nu,
    )
    loss = attraction + repulsion
    terms = {'loss': loss, 'attraction': attraction, 'repulsion': repulsion}
    if 'radius' in params:
      terms['radius'] = radius
    return loss, (terms, batch_stats)

  @functools.cached_property
  def _descent(self) -> 'Descent':
    """What trains; optimizers and checkpoints are imported where something is trained."""
    from memkd_jax.methods.descent import Descent

    train = self._config.train
    return Descent(
      self._config,
      self._extractor,
      self._devices,
      loss=self.loss,
      optimizer=adamw_amsgrad(train.learning_rate, train.weight_decay),
      depth=max(self.stages),
      axis_name=self._axis_name,
    )

  @functools.cached_property
  def _describe_step(self) -> Any:
    """Pmapped `(descriptor, teacher_params, batch) -> [B, H, W, D]`."""

    def look(descriptor: Any, teacher_params: Any, batch: Any) -> jax.Array:
      depth = max(self.stages)
      features = self._descent.teacher.of_batch(teacher_params, batch, depth)
      return describe(self._patches(features), **descriptor)

    return self._devices.map(look)

  def _check(self, images: np.ndarray) -> None:
    """Raises UserError where the memory would have fewer centres than a patch looks at."""
    fields = self._config.method
    centres = self._patches.positions(images) // fields.gamma_c
    needed = fields.attracting + fields.repelling
    if centres < needed:
      raise UserError(
        f'--config.method.gamma_c={fields.gamma_c} leaves {centres} centres in the memory, and '
        f'a patch looks at {needed} of them; give a smaller one, or larger images.'
      )

  def _begin(self, task: Task, cache: 'FeatureCache') -> 'TrainState':
    """A random descriptor, and the memory of what it gives for the training images."""
    fields, seed = self._config.method, category_seed(task.seed, task.name)
    channels = sum(self._extractor.channels(k) for k in self.stages)
    dtype = param_dtype(self._extractor.dtype)
    width = max(1, channels // fields.gamma_d)
    descriptor = init_descriptor(jax.random.key(seed), channels, width, dtype)
    params: dict[str, Any] = {'descriptor': descriptor}
    if fields.learn_radius:
      params['radius'] = jnp.asarray(fields.radius, dtype)
    found = self._descent.over_images(cache, self._describe_step, descriptor)
    memory = mean_over_images(found, fields.memory_rate)
    rows = memory.reshape(-1, memory.shape[-1]).astype(dtype)
    if fields.gamma_c > 1:
      rows = cluster(rows, len(rows) // fields.gamma_c, np.random.default_rng(seed))
    return self._descent.begin(params, {'memory': rows})


def init_descriptor(
  key: jax.Array, channels: int, width: int, dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
  """A 1x1 CoordConv as torch begins one: uniform within 1 / sqrt(inputs).

  Args:
    key: JAX key by which the parameters are drawn.
    channels: number of channels of a patch; two more inputs are its row and column.
    width: number of channels that it gives.
    dtype: floating dtype of the parameters.

  Returns:
    {'kernel': [channels + 2, width], 'bias': [width]}.
  """
  inputs = channels + 2
  bound = inputs**-0.5
  keys = jax.random.split(key)
  return {
    'kernel': jax.random.uniform(keys[0], (inputs, width), dtype, -bound, bound),
    'bias': jax.random.uniform(keys[1], (width,), dtype, -bound, bound),
  }


def describe(found: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Patches with their row and column, each from -1 to 1, through a linear layer.

  Args:
    found: patches of images, floating [B, H, W, C].
    kernel: the layer's kernel, [C + 2, D]; the last two rows are those of row and column.
    bias: the layer's bias, [D].

  Returns:
    [B, H, W, D].
  """
  height, width, channels = found.shape[1:]
  rows, columns = (np.linspace(-1, 1, size, dtype=found.dtype) for size in (height, width))
  # The same for all images, so it is a product of its own; of JAX, for NumPy's would be written
  # into an exported model as a constant.
  kernel = jnp.asarray(kernel)
  place = rows[:, None, None] * kernel[channels] + columns[:, None] * kernel[channels + 1]
  return jnp.matmul(found, kernel[:channels], precision='highest') + place + bias


def mean_over_images(parts: Any, rate: float = 0.0) -> np.ndarray:
  """The mean over images, one batch after the other, in float64.

  Args:
    parts: the batches, arrays [b, ...] each.
    rate: r of m <- (1 - r) m + r x for each image x after the first; 0 is the plain mean, to
      which r = 1 / i for the i-th image leads as well.

  Returns:
    [...].
  """
  mean: Any = 0.0
  number = 0
  for part in parts:
    for image in part:
      number += 1
      share = rate if rate and number > 1 else 1 / number
      mean = mean + share * (image - mean)
  return np.asarray(mean)


def cluster(rows: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
  """The centres that k-means finds, beginning with rows drawn at random.

  Args:
    rows: the vectors to be clustered, floating [N, D].
    number: number of the centres, at most N.
    generator: the random generator by which the first centres are drawn.

  Returns:
    [number, D] of the rows' dtype.
  """
  start = rows[np.sort(generator.choice(len(rows), number, replace=False))]
  centres, _ = vq.kmeans2(rows, start, iter=_ITERATIONS, minit='matrix')
  return np.asarray(centres, rows.dtype)


def coupled_losses(
  queries: jax.Array,
  memory: jax.Array,
  radius: jax.Array | float,
  *,
  attracting: int,
  repelling: int,
  margin: float,
  nu: float,
) -> tuple[jax.Array, jax.Array]:
  """L_att and L_rep of the paper's equations 3 and 4, each a mean over queries and centres.

  max(0, d^2 - r^2) / nu of the nearest centres, max(0, r^2 - d^2 - alpha) / nu of those that
  follow.

  Args:
    queries: the descriptors of patches, [N, D].
    memory: the centres, [M, D], M at least K + J.
    radius: r, the radius of the spheres around the centres, a scalar.
    attracting: K, how many of the nearest centres attract.
    repelling: J, how many of the centres that follow repel; 0 repels from none.
    margin: alpha, up to which r^2 - d^2 of a repelling centre costs nothing.
    nu: the number by which both losses are divided.

  Returns:
    Two scalars.
  """
  # Which centres are near has no gradient; so it need not go through all distances.
  _, indices = k_nearest(jax.lax.stop_gradient(queries), memory, attracting + repelling)
  squared = jnp.sum((queries[:, None] - memory[indices]) ** 2, axis=-1)
  near, far = squared[:, :attracting], squared[:, attracting:]
  attraction = jnp.mean(jnp.maximum(near - radius**2, 0)) / nu
  if not repelling:
    return attraction, jnp.zeros_like(attraction)
  return attraction, jnp.mean(jnp.maximum(radius**2 - far - margin, 0)) / nu


def softmin_distances(queries: jax.Array, memory: jax.Array, neighbours: int) -> jax.Array:
  """The distance to the nearest row, times its share in a softmin over the nearest.

  Args:
    queries: vectors that are compared, floating [N, D].
    memory: rows of the memory, floating [M, D].
    neighbours: K, how many of the nearest rows the softmin is over, at most M.

  Returns:
    [N].
  """
  distances, _ = k_nearest(queries, memory, neighbours)
  return jax.nn.softmax(-distances, axis=-1)[:, 0] * distances[:, 0]


def adamw_amsgrad(learning_rate: float, weight_decay: float) -> Any:
  """AdamW whose steps never grow again (AMSGrad): an optax optimizer."""
  import optax

  return optax.chain(
    optax.scale_by_amsgrad(),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(learning_rate),
  )
