"""Fixtures: four virtual CPU devices, a tiny data set, a tiny config."""

import os
import tempfile
from importlib import metadata

# Before jax is imported anywhere: the tests compare one device with four, and
# spend their time on compiling, so nothing is optimised.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=4',
    '--xla_backend_optimization_level=0',
  ]
)
# What one test has compiled, the others read, in whichever worker or command they run. JAX
# 0.10.2 crashes in that: there those of the same worker find it.
if (
  tuple(map(int, metadata.version('jax').split('.')[:2])) >= (0, 12)
  and 'JAX_COMPILATION_CACHE_DIR' not in os.environ
):
  _programs = tempfile.TemporaryDirectory(prefix='memkd_jax_programs_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _programs.name
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from memkd_jax import config as base
from memkd_jax import evaluate, methods, run, worker
from memkd_jax.models.resnet import ARCHITECTURES
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor

_forget_programs = None
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  import compile_once

  _forget_programs = compile_once.install()

SHARED = Path(__file__).parents[2] / 'shared'


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nobody calls it
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
  """Gives each file to one worker, so that no fixture of a file is made twice."""
  from xdist.scheduler import LoadFileScheduling  # no matter without -n

  return LoadFileScheduling(config, log)


@pytest.fixture
def shared() -> Path:
  """The folder with real weights and images; skips where it is absent."""
  if not (SHARED / 'weights').is_dir():
    pytest.skip('needs the real weights and images in ../shared')
  return SHARED


@pytest.fixture(scope='module', autouse=True)
def few_mappings() -> Iterator[None]:
  """Drops compiled programs before Linux grants the process no more mappings of memory."""
  yield
  path = Path('/proc/self/maps')
  if path.exists() and path.read_text().count('\n') > 20_000:
    jax.clear_caches()
    if _forget_programs is not None:
      _forget_programs()


@pytest.fixture(scope='session')
def compiled() -> dict[Any, Any]:
  """What holds compiled programs, by what they depend on."""
  return {}


@pytest.fixture
def share_compilations(monkeypatch: pytest.MonkeyPatch, compiled: dict[Any, Any]) -> None:
  """Runs share teacher, method and scorer, and with them the compilations."""
  create, extractor, scorer = methods.create, run.FeatureExtractor, worker.Scorer

  def shared_extractor(*which, kept=None):
    if kept is not None:
      return extractor(*which, kept=kept)
    if ('teacher', which) not in compiled:
      compiled['teacher', which] = extractor(*which)
    return compiled['teacher', which]

  def shared_method(config, teacher, devices):
    of_students = methods.METHODS[config.method.name] == methods.METHODS['memkd']
    if not of_students or len(config.data.get('inputs', ('rgb',))) > 1:
      return unchanged_method(config, teacher, devices)
    train = config.train
    optimizer = (train.learning_rate, train.adam_b1, train.adam_b2, train.adapt_rate)
    noise = (train.feature_noise, train.noise_scale, train.noise_share)
    parts = [json.loads(part.to_json()) for part in (config.model, config.loss)]
    where = (config.parallel.axis, tuple(map(str, devices.local)))
    key = ('method', id(teacher), json.dumps([*parts, optimizer, noise]), where)
    if key not in compiled:
      compiled[key] = create(config, teacher, devices)
    method = compiled[key]
    method.config = method.trainer._config = config
    method.trainer._said = not devices.first  # as if it were new
    return method

  def unchanged_method(config, teacher, devices):
    fields = json.loads(config.to_json())
    for name in ('dir', 'roi', 'categories'):  # of which no method knows
      fields['data'].pop(name, None)
    where = tuple(map(str, devices.local))
    key = ('method', id(teacher), json.dumps(fields, sort_keys=True), where)
    if key not in compiled:
      compiled[key] = create(config, teacher, devices)
    return compiled[key]

  def shared_scorer(pipeline, tiling, teacher_params, devices, batch_size):
    key = ('scorer', pipeline, tiling, tuple(map(str, devices.local)), batch_size)
    if key not in compiled:
      compiled[key] = scorer(pipeline, tiling, teacher_params, devices, batch_size)
    return compiled[key]

  monkeypatch.setattr(run, 'FeatureExtractor', shared_extractor)
  monkeypatch.setattr(methods, 'create', shared_method)
  monkeypatch.setattr(worker, 'Scorer', shared_scorer)


@pytest.fixture(scope='session', autouse=True)
def drawing() -> Iterator[dict[str, Callable[..., None]]]:
  """Has runs write white pictures: to draw takes most of a tiny run. Yields what draws."""
  names = ('write_curves', 'write_figure', 'write_memory_figure')
  real = {name: getattr(evaluate, name) for name in names}
  with pytest.MonkeyPatch.context() as patch:
    for name in names:
      patch.setattr(evaluate, name, write_white)
    yield real


@pytest.fixture
def drawn(drawing: dict[str, Callable[..., None]], monkeypatch: pytest.MonkeyPatch) -> None:
  """Has runs draw their pictures after all."""
  for name, draw in drawing.items():
    monkeypatch.setattr(evaluate, name, draw)


def write_white(path: Path, *_: Any) -> None:
  Image.new('RGB', (8, 8), 'white').save(path)


@pytest.fixture
def rng() -> np.random.Generator:
  return np.random.default_rng(0)


@pytest.fixture
def one_device() -> Devices:
  return Devices(jax.devices()[:1])


@pytest.fixture(scope='session')
def make_config() -> Callable[[Path], ConfigDict]:
  """`tiny_config` for any data folder, for fixtures that many tests share."""
  return make_tiny_config


@pytest.fixture(scope='session')
def make_quick_config() -> Callable[[Path], ConfigDict]:
  """A config of nearest neighbours for any data folder: a run of a second."""

  def make(data: Path) -> ConfigDict:
    config = methods.get_config('folder', 'knn')
    tiny = make_tiny_config(data)
    config.data = tiny.data
    config.model.backbone, config.model.teacher_weights = 'tiny_basic', base.RANDOM_TEACHER
    config.eval.batch_size, config.method.share = 4, 1.0
    return config

  return make


@pytest.fixture(scope='session')
def make_method() -> Callable[[ConfigDict, Devices], Any]:
  """The method of a config with its teacher, on some devices."""

  def make(config: ConfigDict, devices: Devices) -> Any:
    config = methods.resolve(config)
    model = config.model
    extractor = FeatureExtractor(model.backbone, model.teacher_weights, model.dtype)
    return methods.create(config, extractor, devices)

  return make


@pytest.fixture(scope='session')
def make_category() -> Callable[..., Path]:
  """Writes a category in the folder layout, with a bright square as its defect."""
  return write_category


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
  """Mounts a file system of some kB, again for another size; skips where it is forbidden."""
  folder = tmp_path / 'disk'

  def mount(size: int) -> Path:
    options = f'{"remount," if folder.exists() else ""}size={size}k'
    folder.mkdir(exist_ok=True)
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
    if shutil.which('mount') is None or subprocess.run(command, capture_output=True).returncode:
      folder.rmdir()
      pytest.skip('needs the right to mount a tmpfs')
    return folder

  yield mount
  if folder.exists():
    subprocess.run(['umount', str(folder)], check=True)


@pytest.fixture
def make_state_dict() -> Callable[..., dict[str, np.ndarray]]:
  """Random weights and BatchNorm statistics under torchvision's names."""
  return random_state_dict


def write_category(
  root: Path,
  category: str = 'bolt',
  train: int = 10,
  good: int = 3,
  bad: int = 3,
  masks: bool = True,
  size: int = 32,
) -> Path:
  rng = np.random.default_rng(1)
  folder = root / category

  def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)

  def texture() -> np.ndarray:
    return rng.integers(0, 128, (size, size, 3), dtype=np.uint8)

  for i in range(train):
    save(folder / 'train' / 'good' / f'{i:03}.png', texture())
  for i in range(good):
    save(folder / 'test' / 'good' / f'{i:03}.png', texture())
  for i in range(bad):
    pixels, mask = texture(), np.zeros((size, size), np.uint8)
    row, column = rng.integers(0, size // 2, 2)
    region = np.s_[row : row + size // 3, column : column + size // 3]
    pixels[region], mask[region] = 255, 255
    save(folder / 'test' / 'hole' / f'{i:03}.png', pixels)
    if masks:
      save(folder / 'ground_truth' / 'hole' / f'{i:03}_mask.png', mask)
  return folder


def random_state_dict(
  arch: str, rng: np.random.Generator, stages: int = 4
) -> dict[str, np.ndarray]:
  a = ARCHITECTURES[arch]
  state = {}

  def conv_norm(conv: str, norm: str, out: int, inputs: int, side: int) -> None:
    state[f'{conv}.weight'] = rng.normal(size=(out, inputs, side, side)) / np.sqrt(
      inputs * side**2
    )
    state[f'{norm}.weight'] = rng.uniform(0.5, 2, out)
    state[f'{norm}.bias'] = rng.uniform(-1, 1, out)
    state[f'{norm}.running_mean'] = rng.uniform(-1, 1, out)
    state[f'{norm}.running_var'] = rng.uniform(0.1, 4, out)

  conv_norm('conv1', 'bn1', a.planes, 3, 7)
  inputs = a.planes
  for stage in range(1, stages + 1):
    planes, out = a.planes * 2 ** (stage - 1), a.channels(stage)
    for block in range(a.blocks[stage - 1]):
      name = f'layer{stage}.{block}'
      if a.block == 'basic':
        sizes = [(planes, inputs, 3), (out, planes, 3)]
      else:
        width = planes * a.width_factor
        sizes = [(width, inputs, 1), (width, width, 3), (out, width, 1)]
      for i, (o, n, side) in enumerate(sizes, start=1):
        conv_norm(f'{name}.conv{i}', f'{name}.bn{i}', o, n, side)
      if inputs != out:
        conv_norm(f'{name}.downsample.0', f'{name}.downsample.1', out, inputs, 1)
      inputs = out
  state = {n: np.asarray(x, np.float32) for n, x in state.items()}
  return state | {'bn1.num_batches_tracked': np.array(7), 'fc.bias': np.zeros(9, np.float32)}


@pytest.fixture
def tiny_config(tmp_path: Path) -> ConfigDict:
  """A run of a few seconds; its data folder is `tmp_path / 'data'`, made by the test."""
  return make_tiny_config(tmp_path / 'data')


def make_tiny_config(data: Path) -> ConfigDict:
  config = methods.get_config()
  config.data.dataset = 'folder'
  config.data.dir = str(data)
  config.data.image_size = 32
  config.data.threads = 2
  config.model.backbone = 'tiny_basic'
  config.model.teacher_weights = base.RANDOM_TEACHER
  config.model.memory_items = 5
  config.train.epochs = 4
  config.train.batch_size = 8
  config.train.exemplars = 4
  config.train.log_steps = 1
  config.eval.batch_size = 4
  return config
