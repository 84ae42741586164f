"""Every field that all methods have, and what the values of a field may be.

A method adds fields of its own: `methods.get_config` gives the config of a run, and
`methods.resolve` checks it. The files of configs/ start from there.
"""

from memkd_jax.config.field import Field, get_value, require, section_of, set_value
from memkd_jax.config.fields import (
  AUTO_BACKBONE,
  AUTO_DTYPE,
  AUTO_TEACHER,
  BACKBONES,
  DEFAULT_DTYPE,
  DEMO_TEACHER,
  DEMO_TEACHER_FILE,
  DTYPES,
  FIELDS,
  RANDOM_TEACHER,
  TINY_BACKBONES,
  VALIDATION,
)
from memkd_jax.config.values import (
  build,
  by_short_names,
  choose_backbone,
  choose_dtype,
  data_dir,
  default_dtype,
  describe,
  flatten,
  get_config,
  of_older,
  resolve,
  resumable,
  scoring,
)

__all__ = [
  'AUTO_BACKBONE',
  'AUTO_DTYPE',
  'AUTO_TEACHER',
  'BACKBONES',
  'DEFAULT_DTYPE',
  'DEMO_TEACHER',
  'DEMO_TEACHER_FILE',
  'DTYPES',
  'FIELDS',
  'RANDOM_TEACHER',
  'TINY_BACKBONES',
  'VALIDATION',
  'Field',
  'build',
  'by_short_names',
  'choose_backbone',
  'choose_dtype',
  'data_dir',
  'default_dtype',
  'describe',
  'flatten',
  'get_config',
  'get_value',
  'of_older',
  'require',
  'resolve',
  'resumable',
  'scoring',
  'section_of',
  'set_value',
]
