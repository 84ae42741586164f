"""Compiles the programs of a training without data, and says what they cost.

memkd train --config=mvtec --compile-only
memkd train --config=mvtec --compile-only=v5e-8

The first is for the devices at hand. The second is for TPUs that need not be there: with libtpu
the programs are compiled for them, else they are lowered only, and operations, FLOPs and
collectives are those of the program as it is written.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax import cli, methods
from memkd_jax import config as base
from memkd_jax.data.tiling import Tiling
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Method
from memkd_jax.runtime import programs, topology
from memkd_jax.runtime.devices import AXIS, Devices
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import RANDOM, FeatureExtractor

TPU = 'tpu'


@dataclasses.dataclass(frozen=True)
class Target:
  """What programs are made for.

  Attributes:
    name: what the target is called on the screen.
    devices: the devices, whose number counts; of another platform where there is no compiler.
    platform: the platform that is lowered for in place of the devices' own; None for that.
    is_tpu: whether TPUs are meant.
  """

  name: str
  devices: Devices
  platform: str | None
  is_tpu: bool


@dataclasses.dataclass(frozen=True)
class Program:
  """A function that is mapped over devices, and what it takes.

  Attributes:
    name: what the program is called on the screen.
    mapped: the mapped function, as `Devices.map` gives it.
    arguments: shapes and dtypes, leaves [P, ...].
  """

  name: str
  mapped: Any
  arguments: Sequence[Any]


def run(config: ConfigDict, asked: str) -> None:
  """Compiles the programs of a config, and prints what each costs.

  No data, no weights and no folder are needed.

  Args:
    config: the config, as `methods.get_config` gives it.
    asked: a topology of TPUs, see `topology.spelled`; '' for the devices at hand.

  Raises:
    UserError: the config is wrong, the devices do not divide a batch, there is no such
      topology, or the method has no program that is known before its images.
  """
  target = choose_target(asked)
  config = resolve(config, target)
  source = config.model.teacher_weights
  source = source if Path(source).is_file() else RANDOM  # on whose numbers no program depends
  extractor = FeatureExtractor(config.model.backbone, source, config.model.dtype)
  devices = target.devices
  if config.parallel.axis != AXIS:  # then each device has programs of its own
    devices = Devices(devices.local[:1])
  method = methods.create(config, extractor, devices)
  found = list(list_programs(config, method, extractor, devices))
  if not found:
    raise UserError(
      f'--compile-only: {method.name} takes no training steps, and its scoring is up to the '
      'number of training images; nothing of it is compiled without them.'
    )
  size = f'{config.data.image_size}'.strip('()')
  print(
    f'{method.name} with {config.model.backbone}, {size} pixels, {config.model.dtype}, for '
    f'{target.name}. Numbers are those of one device.'
  )
  for program in found:
    lowered = devices.lower(program.mapped, program.arguments, target.platform)
    cost = programs.lowered_cost(lowered) if target.platform else _compiled(program, lowered)
    print('\n'.join(describe(program, cost)), flush=True)
  if target.platform:
    print(
      'What it takes of memory, and whether it compiles, is not known without the TPU '
      'compiler; install it with pip install "jax[tpu]", which needs no TPU.'
    )


def choose_target(asked: str) -> Target:
  """Where programs are to run; starts JAX.

  Args:
    asked: see `run`.

  Raises:
    UserError: there is no such topology.
  """
  if not asked:
    cli.start_jax()
    devices = Devices()
    kind = devices.local[0].device_kind
    return Target(f'{len(devices)} x {kind}', devices, None, devices.local[0].platform == TPU)
  name = topology.spelled(asked)
  number = topology.chips(name)
  # A host's TPUs stay free for others.
  if topology.has_compiler():
    jax.config.update('jax_platforms', 'cpu')
    devices = Devices(topology.devices_of(name))
    kind = devices.local[0].device_kind
    return Target(f'{len(devices)} x {kind} ({name})', devices, None, True)
  with_cpus(number)
  if len(jax.devices()) < number:
    raise UserError(
      f'--compile-only={asked} stands for {number} devices, and without libtpu as many are '
      'needed here; install it with pip install "jax[tpu]", or set '
      f'XLA_FLAGS=--xla_force_host_platform_device_count={number}.'
    )
  return Target(
    f'{number} x TPU ({name}), lowered only', Devices(jax.devices()[:number]), TPU, True
  )


def with_cpus(number: int) -> None:
  """Lets JAX have that many CPU devices, if it has not started yet."""
  try:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', number)
  except RuntimeError:  # it has, with as many as there are
    pass


def resolve(config: ConfigDict, target: Target) -> ConfigDict:
  """The config as it is where it is trained: what is 'auto' follows from the target.

  Args:
    config: the config, as `methods.get_config` gives it.
    target: the devices and the platform that programs are made for.

  Raises:
    UserError: a field has a value that it cannot have.
  """
  config = config.copy_and_resolve_references()
  if target.is_tpu and config.model.backbone == base.AUTO_BACKBONE:
    config.model.backbone = 'wide_resnet50_2'
  if target.is_tpu and config.model.dtype in (base.AUTO_DTYPE, base.DEFAULT_DTYPE):
    config.model.dtype = 'bfloat16'
  return methods.resolve(config)


def list_programs(
  config: ConfigDict, method: Method, extractor: FeatureExtractor, devices: Devices
) -> Iterator[Program]:
  """The training step and the scoring program, those that are known before the images are.

  Args:
    config: the config, as `resolve` gives it.
    method: the method that the config names.
    extractor: the method's frozen teacher.
    devices: the devices that share out every batch.
  """
  channels = 3
  if len(config.data.inputs) > 1:
    channels = 4 * len(config.data.inputs)
  elif config.data.resize == 'fit' or config.data.roi:
    channels = 4
  height, width = Tiling.of_config(config.data).size
  canvas = (height, width, channels)
  step = method.step_shapes(canvas)
  if step is not None:
    number = config.train.batch_size
    known = 'computed in the step' if config.train.cache_features == 'off' else 'known'
    name = f"training step, batch of {number}, the teacher's features {known}"
    yield Program(name, *step)
  params = method.param_shapes(canvas)
  if params is None or config.anomaly_map.normalize != 'none':
    return
  pipeline = Pipeline(extractor, method, **config.anomaly_map.to_dict())
  number = devices.round_up(config.eval.batch_size)
  share = (len(devices.local), number // len(devices))
  images = jax.ShapeDtypeStruct((*share, *canvas), np.uint8)
  arguments = (*devices.stacked((params, extractor.params)), images)
  name = f'scoring, batch of {number}'
  yield Program(name, devices.map(pipeline.score_and_diagnose), arguments)


def _compiled(program: Program, lowered: Any) -> programs.Cost:
  """Raises UserError where the compiler refuses, as where memory is too small."""
  try:
    return programs.compiled_cost(lowered)
  except jax.errors.JaxRuntimeError as error:
    reason = ' '.join(str(error).split())[:400].rstrip('.')
    raise UserError(
      f'--compile-only: the {program.name} does not compile ({reason}).'
    ) from error


def describe(program: Program, cost: programs.Cost) -> list[str]:
  """Lines for the screen."""
  leaves = jax.tree.leaves(program.arguments[0])
  lines = [f'\n{program.name}']

  def say(name: str, text: str) -> None:
    lines.append(f'  {name:<12} {text}')

  say('takes', f'{len(leaves)} arrays of state or model, {_megabytes(_bytes_of(leaves))}')
  say('operations', f'{cost.operations:,} before compiling')
  if cost.flops is not None:
    say('compute', f'{cost.flops / 1e9:,.1f} GFLOP')
  if cost.bytes_accessed is not None:
    say('traffic', f'{_megabytes(cost.bytes_accessed)} of memory read and written')
  if cost.memory is not None and cost.peak is not None:
    parts = (f'{name} {_megabytes(size)}' for name, size in cost.memory.items())
    say('memory', f'{_megabytes(cost.peak)}: {", ".join(parts)}')
  for kind, (number, size) in cost.collectives.items():
    say('exchange', f'{number} x {kind}, {_megabytes(size)}')
  if not cost.collectives:
    say('exchange', 'none')
  if cost.seconds is not None:
    say('compiled in', f'{cost.seconds:.1f} s')
  return lines


def _bytes_of(leaves: Sequence[Any]) -> int:
  """Of one device's share."""
  return sum(leaf.size * leaf.dtype.itemsize // leaf.shape[0] for leaf in leaves)


def _megabytes(size: float) -> str:
  return f'{size / 1e6:,.1f} MB'
