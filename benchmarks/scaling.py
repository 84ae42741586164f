"""What data parallelism costs: measured on virtual CPU devices, calculated for others.

  python benchmarks/scaling.py --steps
  python benchmarks/scaling.py --traffic

The first times training steps of one global batch on 1, 2, 4 and 8 virtual devices that
share this machine's cores: no speed, only what splitting and exchanging cost, as medians
over turns in which every number of devices comes once. The second counts what a step
exchanges, and divides it by nominal bandwidths.
"""

import argparse
import os
import statistics
import time
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.methods.base import Task
from memkd_jax.models.resnet import BACKBONES
from memkd_jax.report.results import markdown
from memkd_jax.runtime.devices import AXIS, Devices
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training.step import Batch, TrainState

DEVICES = (1, 2, 4, 8)
# In bytes per second, of one device in one direction, as the vendors print them.
BANDWIDTHS = {
  'NVLink 4': 450e9,
  'TPU v5e ICI': 200e9,
  'PCIe 4 x16': 32e9,
  '100 GbE': 12.5e9,
  '10 GbE': 1.25e9,
}


def make_config(backbone: str, size: int) -> ConfigDict:
  """The paper's model with a random teacher, on whose weights no time depends."""
  config = methods.get_config()
  config.model.backbone, config.model.teacher_weights = backbone, base.RANDOM_TEACHER
  config.data.image_size = size
  return methods.resolve(config)


def time_steps(backbone: str, size: int, turns: int) -> str:
  """Milliseconds of a step by number of devices, as a table."""
  config = make_config(backbone, size)
  number = config.train.batch_size
  images = np.random.default_rng(0).integers(0, 256, (number, size, size, 3), np.uint8)
  extractor = FeatureExtractor(backbone, base.RANDOM_TEACHER)
  steps: dict[int, Any] = {}
  for n in DEVICES:
    devices = Devices(jax.devices()[:n])
    trainer = methods.create(config, extractor, devices).trainer
    indices = np.arange(number)
    inputs = trainer.inputs(trainer.teacher.cache(images), indices, indices)
    task = Task.of_category('benchmark', 0)
    state = devices.replicate(trainer.init_state(task, images))
    state, terms = trainer.train_step(state, *inputs)
    jax.block_until_ready(terms)
    steps[n] = [trainer.train_step, state, inputs]
  times: dict[int, list[float]] = {n: [] for n in DEVICES}
  for _ in range(turns):
    for n, (step, state, inputs) in steps.items():
      begin = time.perf_counter()
      state, terms = step(state, *inputs)
      jax.block_until_ready((state, terms))
      times[n].append(1000 * (time.perf_counter() - begin))
      steps[n][1] = state
  medians = {n: statistics.median(values) for n, values in times.items()}
  rows = [
    [str(n), f'{medians[n]:.0f}', f'{min(times[n]):.0f}', f'{medians[n] / medians[1]:.2f}']
    for n in DEVICES
  ]
  title = f'{backbone}, {size} x {size}, batch {number}, {os.cpu_count()} cores'
  header = ['devices', 'ms a step', 'least', 'of one device']
  return f'{title}\n\n{markdown(header, rows)}'


def trace_step(backbone: str, size: int, images: int) -> tuple[Any, Any, float]:
  """What one device does in a step of the paper's model, without running it.

  Args:
    backbone: of the teacher.
    size: of the images in pixels.
    images: in its share of the batch, and of the exemplars.

  Returns:
    The step's jaxpr, the shapes of the trained parameters, and the FLOPs.
  """
  config = make_config(backbone, size)
  extractor = FeatureExtractor(backbone, base.RANDOM_TEACHER)
  optimizer = optax.adam(0.005)
  pixels = jax.ShapeDtypeStruct((images, size, size, 3), np.uint8)
  features = jax.eval_shape(lambda p, x: extractor(p, x, 4), extractor.params, pixels)

  def method_of(axis: str) -> Any:
    config.parallel.axis = axis  # without 'batch' nothing is exchanged
    return methods.create(config, extractor, Devices(jax.devices()[:1]))

  def step_of(method: Any) -> Any:
    return method.trainer.make_step(optimizer)

  method = method_of('batch')
  key = jax.random.key(0)
  variables = jax.eval_shape(method.distiller.init, key, pixels, features[:3])
  state = TrainState(
    jax.ShapeDtypeStruct((), np.int32),
    variables['params'],
    variables['batch_stats'],
    jax.eval_shape(optimizer.init, variables['params']),
  )
  batch = Batch(pixels, features)
  arguments = (state, extractor.params, batch, batch)
  jaxpr = jax.make_jaxpr(step_of(method), axis_env=[(AXIS, 8)])(*arguments)
  cost = jax.jit(step_of(method_of('category'))).lower(*arguments).cost_analysis()
  return jaxpr.jaxpr, variables['params'], cost['flops']


def exchanges(jaxpr: Any) -> list[int]:
  """The bytes of each all-reduce of a jaxpr."""
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name.startswith('psum'):
      found.append(sum(v.aval.size * v.aval.dtype.itemsize for v in equation.invars))
    for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
      if is_jaxpr(parameter):
        found += exchanges(getattr(parameter, 'jaxpr', parameter))
  return found


def is_jaxpr(value: Any) -> bool:
  return hasattr(value, 'eqns') or hasattr(value, 'jaxpr')


def count_traffic(size: int, devices: int = 8, batch: int = 16) -> str:
  """What a step exchanges by backbone, and how long that takes at the least, as a table."""
  header = ['backbone', 'parameters', 'gradient', 'BatchNorm', 'exchanges', 'GFLOP']
  header += [f'ms, {name}' for name in BANDWIDTHS]
  rows = []
  for backbone in BACKBONES:
    jaxpr, params, flops = trace_step(backbone, size, batch // devices)
    sizes = exchanges(jaxpr)
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    gradient = 4 * number
    # A ring sends nearly everything twice.
    sent = 2 * (devices - 1) / devices * sum(sizes)
    leaves = len(jax.tree.leaves(params))
    rows.append(
      [
        backbone,
        f'{number / 1e6:.1f} M',
        f'{gradient / 1e6:.1f} MB',
        f'{(sum(sizes) - gradient) / 1e3:.0f} kB',
        f'{leaves} + {len(sizes) - leaves}',
        f'{flops / 1e9:.0f}',
        *(f'{1000 * sent / bandwidth:.2f}' for bandwidth in BANDWIDTHS.values()),
      ]
    )
  return markdown(header, rows)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--steps', action='store_true')
  parser.add_argument('--traffic', action='store_true')
  parser.add_argument('--backbone', default='resnet18')
  parser.add_argument('--size', type=int, default=128)
  parser.add_argument('--turns', type=int, default=15)
  arguments = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  flags = f'--xla_force_host_platform_device_count={max(DEVICES)}'
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flags}'
  if arguments.steps:
    print(time_steps(arguments.backbone, arguments.size, arguments.turns))
  if arguments.traffic:
    print(count_traffic(256))


if __name__ == '__main__':
  main()
