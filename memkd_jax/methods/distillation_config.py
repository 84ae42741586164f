"""The fields of the distillation family: MemKD, RD, MemMKD and its baseline."""

from typing import Any

from ml_collections import ConfigDict

from memkd_jax.config import BACKBONES, TINY_BACKBONES, Field, get_value, require
from memkd_jax.methods import descent_config

# What a name stands for, in the section 'model'. The first one takes every value, and the
# last one that fits a config is its name.
_NAMES: dict[str, dict[str, Any]] = {
  'memkd': {},
  'memmkd': {'paradigm': 'forward'},
  'rd': {'paradigm': 'reverse', 'memories': ()},
  'mkd': {'paradigm': 'forward', 'memories': ()},
}

# Of every student.
NORM_STATISTICS = Field(
  'train.norm_statistics',
  'auto',
  "Means and variances in a finished student's BatchNorms: running averages over the last "
  'steps, or exact ones of the training images, for which it looks at them once more; auto is '
  'exact for memmkd and mkd, whose averages lag behind, and else running',
  choices=('auto', 'running', 'exact'),
  before='running',
)
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
# What one paradigm alone can do, with what it is where nobody asks for it.
_OF_PARADIGM: dict[str, dict[str, Any]] = {
  'forward': {'model.student': 'auto', 'model.projection': False},
  'reverse': {
    'model.memory_layout': 'before',
    'model.bottleneck_dropout': 0.0,
    'model.adapt_teacher': False,
    'model.joint_bottleneck': False,
    'train.feature_noise': 'none',
  },
}

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
    'model.memory_layout',
    'before',
    'Where the memories sit: before the student stages 3, 2 and 1, memory 3 on the embedding; '
    'or behind the stages 3 and 2, whose features they then imitate, so that nothing needs '
    'stage 4',
    choices=('before', 'aligned'),
  ),
  Field(
    'model.bottleneck_dropout',
    0.0,
    'Share of the values of the embedding that are dropped in training',
    high=1,
    open_high=True,
  ),
  Field(
    'model.adapt_teacher',
    False,
    'Whether a trainable copy of the teacher feeds the bottleneck; the student then rebuilds '
    'the features of both',
  ),
  Field(
    'model.joint_bottleneck',
    False,
    'Whether one student sees all pictures of data.inputs in one bottleneck, and rebuilds the '
    'features of each; else each picture has a student of its own',
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
  Field(
    'loss.orth',
    'within',
    'What the orthogonality loss drives apart: keys from keys and values from values, or every '
    'key from every value',
    choices=('within', 'cross'),
  ),
  Field(
    'loss.hardest',
    0,
    'Number of the hardest positions of each image and stage whose mean distance is added to '
    'the loss; 0 for none',
    high=2**20,
  ),
  Field(
    'loss.hard_mining',
    False,
    'Whether positions that are rebuilt well already pull less at the student',
  ),
  Field(
    'loss.easy_share',
    0.9,
    'Share of the positions that loss.hard_mining takes for easy; it grows from 0 over the '
    'first tenth of the steps',
    high=1,
  ),
  Field(
    'loss.easy_factor',
    0.1,
    'Factor of the gradient at easy positions, with loss.hard_mining',
    high=1,
  ),
  *descent_config.fields(epochs=200, batch_size=16, learning_rate=0.005),
  NORM_STATISTICS,
  Field('train.adam_b1', 0.5, "Adam's decay of the mean gradient", high=1, open_high=True),
  Field(
    'train.adam_b2', 0.999, "Adam's decay of the mean squared gradient", high=1, open_high=True
  ),
  Field(
    'train.adapt_rate',
    1e-5,
    "Learning rate of the teacher's copy, with model.adapt_teacher",
    high=1e6,
  ),
  Field(
    'train.feature_noise',
    'none',
    'Noise on some regions of what the student sees in training, while its target stays clean: '
    'independent at each position, or clouds',
    choices=('none', 'gaussian', 'simplex'),
  ),
  Field(
    'train.noise_scale',
    1.0,
    "Size of train.feature_noise, in root mean squares of a position's features",
    high=1e6,
  ),
  Field(
    'train.noise_share', 0.5, 'Share of the positions that train.feature_noise meets', high=1
  ),
  Field(
    'train.stop',
    'epochs',
    'When the training ends: after train.epochs; or before that, where the loss on normal '
    'images that are kept out of it falls no more',
    choices=('epochs', 'plateau'),
  ),
  Field(
    'train.stop_share',
    0.1,
    'Share of the training images that train.stop=plateau keeps out to look at; the images of '
    'train.holdout are others',
    high=0.5,
    open_low=True,
  ),
  Field(
    'train.patience',
    10,
    'Number of epochs without a lower loss that end a training, with train.stop=plateau',
    high=10**6,
    open_low=True,
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
    config: the config with its defaults, which are changed.
    name: name of the method, 'memkd', 'rd', 'memmkd' or 'mkd'.
  """
  config.model.update(_NAMES[name])


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself, and fills in what follows.

  Args:
    config: the config, as `config.resolve` returns it; it is changed.

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
  other = 'forward' if model.paradigm == 'reverse' else 'reverse'
  for field, default in _OF_PARADIGM[other].items():
    value = get_value(config, field)
    what = f'is {default}, or choose --config.model.paradigm={other}'
    require(field, value, value == default, what)
  if model.memory_layout == 'aligned':
    what = 'is auto, since with --config.model.memory_layout=aligned it is always stage 3'
    require('model.m3_target', model.m3_target, model.m3_target == 'auto', what)
  if config.data.tiles or config.data.tile_size:  # of one image some would judge the others
    what = 'is epochs where images are cut into tiles'
    require('train.stop', config.train.stop, config.train.stop == 'epochs', what)
  if model.paradigm == 'forward':
    choose_student(model)
  if config.train.norm_statistics == 'auto':
    forward = model.paradigm == 'forward'
    config.train.norm_statistics = 'exact' if forward else 'running'
  if model.joint_bottleneck:
    _check_joint_bottleneck(config)
  require('model.stages', model.stages, len(model.stages) > 0, 'names at least one stage')
  model.stages = tuple(sorted(set(model.stages)))
  model.memories = tuple(sorted(set(model.memories)))
  for name, values in _NAMES.items():
    if all(model[field] == value for field, value in values.items()):
      config.method.name = name
  return config


def _check_joint_bottleneck(config: ConfigDict) -> None:
  """Raises UserError where there is nothing to join, or no one student to see it."""
  field = 'model.joint_bottleneck'
  what = 'is False where data.inputs names one picture; name several, as in rgb,normals'
  require(field, True, len(config.data.inputs) > 1, what)
  what = 'is False with model.adapt_teacher, whose copy sees one picture'
  require(field, True, not config.model.adapt_teacher, what)


def choose_student(model: ConfigDict) -> None:
  """Gives the architecture that model.student=auto stands for its name."""
  if model.student == 'auto':
    wide = model.backbone == 'wide_resnet50_2'
    model.student = 'resnet50' if wide else model.backbone


def create(config: ConfigDict, extractor: Any, devices: Any) -> Any:
  """The method itself, which is imported only here: flax and orbax take seconds."""
  from memkd_jax.methods import distillation

  return distillation.create(config, extractor, devices)
