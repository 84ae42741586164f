"""What of ours is timed: training and inference of a distillation, and its exported file."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxlib import _jax
from other_process import Works
from turns import Candidate, Queued, timed

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.methods.base import Task
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor

# The works, by which candidates are compared.
TRAIN, INFERENCE, ON_DEVICE, ONE = 'train', 'inference', 'inference on the device', 'one image'


@dataclasses.dataclass(frozen=True)
class Setup:
  """What is timed.

  Attributes:
    backbone: a name of `ARCHITECTURES`.
    paradigm: 'reverse' or 'forward'.
    size: side of the images in pixels.
    batch: images of all devices together.
    memories: whether there are any.
    caches: values of train.cache_features, each of which is a candidate.
  """

  backbone: str
  paradigm: str = 'reverse'
  size: int = 256
  batch: int = 16
  memories: bool = True
  caches: tuple[str, ...] = ('auto', 'off')

  def config(self, dtype: str, cache: str) -> Any:
    """The paper's model with random weights, resolved."""
    config = methods.get_config()
    config.data.image_size = self.size
    config.model.backbone = self.backbone
    config.model.paradigm = self.paradigm
    config.model.teacher_weights = base.RANDOM_TEACHER
    config.model.m3_target = 'embedding'  # as the PyTorch model does
    config.model.dtype = dtype
    config.model.memories = (1, 2, 3) if self.memories else ()
    config.train.batch_size = self.batch
    config.train.exemplars = self.batch
    config.train.cache_features = cache
    config.eval.batch_size = self.batch
    return methods.resolve(config)

  @property
  def items(self) -> int:
    """Of a memory; 0 without memories."""
    return int(methods.get_config().model.memory_items) if self.memories else 0


_TASK = Task.of_category('benchmark', seed=0)


def candidates(setup: Setup, dtype: str, images: np.ndarray) -> list[Candidate]:
  """Training with known and with recomputed teacher features, and inference.

  Args:
    setup: what is timed.
    dtype: a value of model.dtype.
    images: uint8 [N, S, S, 3], more than a batch.
  """
  devices = Devices()
  config = setup.config(dtype, setup.caches[0])
  extractor = FeatureExtractor(setup.backbone, base.RANDOM_TEACHER, config.model.dtype)
  found = []
  for cache in setup.caches:
    method = methods.create(setup.config(dtype, cache), extractor, devices)
    side = f'ours, {dtype}' + (', teacher recomputed' if cache == 'off' else '')
    found.append(_training(method.trainer, devices, side, setup.batch, images))
  params = method.trainer.fold(method.trainer.init_state(_TASK, images))
  pipeline = Pipeline(extractor, method, **config.anomaly_map.to_dict())
  found += _inference(pipeline, params, devices, f'ours, {dtype}', images[: setup.batch])
  for candidate in found:
    candidate.dtype = str(extractor.dtype)
  return found


def _training(
  trainer: Any, devices: Devices, side: str, batch: int, images: np.ndarray
) -> Candidate:
  data, rng = trainer.teacher.cache(images), np.random.default_rng(0)
  state = [devices.replicate(trainer.init_state(_TASK, images))]

  def draw() -> tuple[Any, ...]:
    drawn: tuple[Any, ...] = trainer.inputs(data, *rng.integers(0, len(images), (2, batch)))
    return drawn

  def train() -> None:
    state[0], _ = trainer.train_step(state[0], *draw())

  flop, facts = _compile(trainer.train_step, state[0], *draw())
  run = Queued(train, lambda: jax.block_until_ready(state))
  return Candidate(TRAIN, side, batch, timed(run), flop=flop, facts=facts)


def _inference(
  pipeline: Pipeline, params: Any, devices: Devices, side: str, images: np.ndarray
) -> list[Candidate]:
  """From the host's uint8 images to maps and scores there; see `ON_DEVICE` for the others."""
  weights = devices.replicate((params, pipeline.extractor.params))  # type: ignore[attr-defined]
  score = devices.map(pipeline.score)

  def infer(batch: np.ndarray) -> None:
    jax.device_get(score(*weights, devices.shard(batch)))

  flop, facts = _compile(score, *weights, devices.shard(images))
  number = len(images)
  found = [
    Candidate(INFERENCE, side, number, timed(lambda: infer(images)), flop=flop, facts=facts)
  ]
  if jax.default_backend() != 'cpu':
    there, last = devices.map(lambda x: x)(devices.shard(images)), [None]

    def stay() -> None:
      last[0] = score(*weights, there)

    run = Queued(stay, lambda: jax.block_until_ready(last))
    found.append(Candidate(ON_DEVICE, side, number, timed(run), flop=flop))
  if len(devices) == 1:
    found.append(Candidate(ONE, side, 1, timed(lambda: infer(images[:1]))))
  return found


def _compile(function: Any, *arguments: Any) -> tuple[float | None, dict[str, float]]:
  """FLOP of a call on one device, and compile seconds and megabytes beside the arguments."""
  begin = time.perf_counter()
  lowered = function.lower(*arguments)
  program = lowered.compile()
  facts = {'compile_s': time.perf_counter() - begin}
  if memory := program.memory_analysis():
    facts['temporary_MB'] = memory.temp_size_in_bytes / 1e6
  return _flop(lowered), facts


def _flop(lowered: Any) -> float | None:
  """As JAX hands a program to XLA, for in a GPU's compiled one its libraries hide them.

  None of a program with loops, whose body would count once (Winograd's goes over a few images
  at a time).
  """
  if 'stablehlo.while' in lowered.as_text():
    return None
  module = lowered.compiler_ir('hlo').as_hlo_module()
  try:
    # What `lowered.cost_analysis` calls, which does so for CPUs alone.
    counted = _jax.hlo_module_cost_analysis(jax.devices('cpu')[0].client, module)
  except (AttributeError, RuntimeError):  # of another jaxlib, or JAX_PLATFORMS leaves CPUs out
    return None
  return float(counted['flops'])


def onnx_works(setup: Setup) -> Works:
  """Gives 'content', the exported file; for a process of its own, on the CPU."""
  jax.config.update('jax_platforms', 'cpu')
  from memkd_jax.deploy import onnx
  from memkd_jax.detector import Detector, Program
  from memkd_jax.workdir import TrainedModel

  config = setup.config('float32', 'off')
  extractor = FeatureExtractor(setup.backbone, base.RANDOM_TEACHER)
  trainer = methods.create(config, extractor, Devices(jax.local_devices()[:1])).trainer
  image = np.zeros((1, setup.size, setup.size, 3), np.uint8)
  params = trainer.fold(trainer.init_state(_TASK, image))
  trained = TrainedModel(
    _TASK.name, 0, config, base.RANDOM_TEACHER, params, 1, '', {}, calibration=None
  )
  detector = Detector(trained, Program.build(trained, None))
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / 'model.onnx'
    onnx.write(detector, out, {})
    content = out.read_bytes()
  return {'content': lambda: content}
