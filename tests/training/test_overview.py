"""What is said of a model's parameters adds up."""

import re

import jax
import numpy as np
import pytest

from memkd_jax.training import overview

TEACHER = {'stem': {'kernel': np.zeros((7, 7, 3, 4), np.float16)}}
PARAMS = {
  'bottleneck': {'embed': {'kernel': np.zeros((3, 3, 8, 200), np.float32)}},
  'memory_m1': {'keys': np.zeros((5, 64), np.float32), 'values': np.zeros((5, 64), np.float32)},
  'memory_m2': {'keys': np.zeros((5, 32), np.float32), 'values': np.zeros((5, 32), np.float32)},
  'student_stage1': {'bias': np.zeros(7, np.float32), 'scale': np.zeros((), np.float32)},
  'teacher': {'stage1': np.zeros(11, np.float32)},
}


@pytest.fixture
def parts():
  return overview.parts_of(PARAMS, TEACHER)


def test_the_line_names_each_part_once(parts):
  state = (PARAMS, jax.tree.map(np.zeros_like, PARAMS))
  numbers = 14_400 + 960 + 8 + 11
  assert overview.one_line(parts, state) == (
    'Parameters: teacher 588, frozen; bottleneck 14,400, memories 960, student 8, '
    f'adapted teacher 11, trained: {numbers:,}, 0.1 MB with optimizer and statistics.'
  )


def test_the_table_has_a_row_for_each_array_and_adds_up(parts):
  lines = overview.table(parts).splitlines()
  found = {re.split(' {2,}', line)[0]: re.split(' {2,}', line)[1:] for line in lines}
  assert len(lines) == len(found) == 1 + 9 + 5 + 2
  assert found['teacher/stem/kernel'] == ['7 x 7 x 3 x 4', 'float16', '588', '0.001', 'frozen']
  assert found['memory_m2/keys'] == ['5 x 32', 'float32', '160', '0.001', 'trained']
  assert found['student_stage1/scale'][0] == 'scalar'
  assert found['total of memories'] == ['960', '0.004', 'trained']
  assert found['total trained'] == ['15,379', '0.062', 'trained']
  assert found['total frozen'] == ['588', '0.001', 'frozen']
  numbers = [int(row[-3].replace(',', '')) for name, row in found.items() if '/' in name]
  assert sum(numbers) == 15_379 + 588


def test_shapes_do_as_well_as_arrays(parts):
  shapes = jax.eval_shape(lambda: (PARAMS, TEACHER))
  assert overview.table(overview.parts_of(*shapes)) == overview.table(parts)
