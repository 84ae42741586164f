"""The fields of the distillation family: MemKD, RD, MemMKD and its baseline."""

from typing import Any

from ml_collections import ConfigDict

from memkd_jax.config import BACKBONES, TINY_BACKBONES, Field, require
from memkd_jax.methods import descent_config

# What a name stands for, in the section 'model'. The first one takes every value, and the
# last one that fits a config is its name.
_NAMES: dict[str, dict[str, Any]] = {
  'memkd': {},
  'memmkd': {'paradigm': 'forward'},
  'rd': {'paradigm': 'reverse', 'memories': ()},
  'mkd': {'paradigm': 'forward', 'memories': ()},
}

# Of a student that sees the image.
STUDENT_FIELDS = (
  Field(
    'model.student',
    'auto',
    'Architecture of the student in the forward paradigm; auto is resnet50 for '
    'wide_resnet50_2, else that of the teacher',
    choices=('auto', *BACKBONES),
    unlisted=TINY_BACKBONES,
  ),
  Field(
    'model.projection',
    False,
    "Whether 1x1 convolutions lead from the student's width to another one of the teacher, in "
    'the forward paradigm',
  ),
)
FIELDS = (
  Field(
    'model.paradigm',
    'reverse',
    "What the student sees: an embedding of the teacher's features, or the image",
    choices=('reverse', 'forward'),
  ),
  *STUDENT_FIELDS,
  Field(
    'model.stages', (1, 2, 3), "The teacher's stages that are distilled", choices=(1, 2, 3)
  ),
  Field(
    'model.memories', (1, 2, 3), 'The memories; without any the model is RD', choices=(1, 2, 3)
  ),
  Field('model.memory_items', 50, 'Number L of items in a memory', high=2**20, open_low=True),
  Field(
    'model.temperature',
    1.0,
    'Temperature of the softmax over the cosines of query and keys',
    low=1e-6,  # by less, float32 would divide into infinity
    high=1e6,
  ),
  Field(
    'model.fusion',
    'concat',
    'How query and recall enter the stage behind a memory: side by side, as their sum, or the '
    'recall alone',
    choices=('concat', 'add', 'replace'),
  ),
  Field(
    'model.memory_init',
    'normal',
    "What keys and values start from: random numbers, or exemplars' features",
    choices=('normal', 'exemplars'),
  ),
  Field(
    'model.m3_target',
    'auto',
    "What the values of memory 3 imitate; auto is the teacher's stage 4 where the weights "
    'hold it, else the embedding',
    choices=('auto', 'stage4', 'embedding'),
  ),
  Field(
    'loss.kd',
    'global_cosine',
    "The distance of a student's feature map from the teacher's: by one cosine of the whole "
    "map, as RD's code has it, or by one at each position, as its text says",
    choices=('global_cosine', 'local_cosine'),
    replaced=(
      ('flat', 'loss.kd', 'global_cosine'),
      ('pixel', 'loss.kd', 'local_cosine'),
    ),
  ),
  Field('loss.lambda_nm', 0.1, 'Weight lambda_1 of the normality loss', high=1e6),
  Field('loss.lambda_orth', 0.1, 'Weight lambda_2 of the orthogonality loss', high=1e6),
  *descent_config.fields(epochs=200, batch_size=16, learning_rate=0.005),
  Field('train.adam_b1', 0.5, "Adam's decay of the mean gradient", high=1, open_high=True),
  Field(
    'train.adam_b2', 0.999, "Adam's decay of the mean squared gradient", high=1, open_high=True
  ),
  Field(
    'train.exemplars',
    16,
    'Number N of exemplars that teach the memories in a step',
    high=2**16,
    open_low=True,
  ),
  Field(
    'train.exemplar_resample',
    'step',
    'When the exemplars are drawn anew',
    choices=('step', 'epoch', 'never'),
  ),
)


def configure(config: ConfigDict, name: str) -> None:
  """Sets what a name of the family stands for.

  Args:
    config: the defaults, which are changed.
    name: 'memkd', 'rd', 'memmkd' or 'mkd'.
  """
  config.model.update(_NAMES[name])


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself, and fills in what follows.

  Args:
    config: as `config.resolve` returns it; it is changed.

  Returns:
    It, with sorted stages and memories, the student's architecture, and the name that
    fits best: MemKD without memories is RD, however it was asked for.

  Raises:
    UserError: fields contradict each other.
  """
  model, method = config.model, config.method.name
  for field, value in _NAMES[method].items():
    what = f'is {value}, or choose another method than {method}'
    require(f'model.{field}', model[field], model[field] == value, what)
  if model.paradigm == 'reverse':
    for field, default in (('student', 'auto'), ('projection', False)):
      what = f'is {default}, or choose --config.model.paradigm=forward'
      require(f'model.{field}', model[field], model[field] == default, what)
  else:
    choose_student(model)
  require('model.stages', model.stages, len(model.stages) > 0, 'names at least one stage')
  model.stages = tuple(sorted(set(model.stages)))
  model.memories = tuple(sorted(set(model.memories)))
  for name, values in _NAMES.items():
    if all(model[field] == value for field, value in values.items()):
      config.method.name = name
  return config


def choose_student(model: ConfigDict) -> None:
  """Gives the architecture that model.student=auto stands for its name."""
  if model.student == 'auto':
    wide = model.backbone == 'wide_resnet50_2'
    model.student = 'resnet50' if wide else model.backbone


def create(config: ConfigDict, extractor: Any, devices: Any) -> Any:
  """The method itself, which is imported only here: flax and orbax take seconds."""
  from memkd_jax.methods import distillation

  return distillation.create(config, extractor, devices)
