"""A trace is of the steps asked for, and only then."""

import gzip
import json

import jax.numpy as jnp
import pytest

from memkd_jax.training.profiler import StepTrace


@pytest.mark.parametrize('steps', [20, 8], ids=['beyond the trace', 'ends within the trace'])
def test_a_trace_is_written(tmp_path, steps):
  with StepTrace(tmp_path, start=4, on=True) as trace:
    for step in range(4, steps):
      trace.before_step(step, jnp.zeros(3) + step)
  assert list(tmp_path.glob('profile/**/*.xplane.pb'))


@pytest.mark.parametrize(('on', 'steps'), [(False, 20), (True, 2)])
def test_there_is_none_unasked_or_for_too_few_steps(tmp_path, on, steps):
  with StepTrace(tmp_path, start=0, on=on) as trace:
    for step in range(steps):
      trace.before_step(step, jnp.zeros(3) + step)
  assert not list(tmp_path.iterdir())


def test_of_two_at_once_the_first_is_traced(tmp_path):
  folders = [tmp_path / name for name in ('one', 'two')]
  for first, second in (folders, folders[::-1]):  # who was traced lets others in
    with StepTrace(first, 0, on=True) as trace, StepTrace(second, 0, on=True) as late:
      for step in range(8):
        trace.before_step(step, jnp.zeros(3) + step)
        late.before_step(step, jnp.zeros(3) + step)
    assert list(first.glob('profile/**/*.xplane.pb'))
    if first == folders[0]:
      assert not second.exists()


def test_each_step_of_a_trace_has_its_number(tmp_path):
  """XProf groups by the event's argument step_num."""
  with StepTrace(tmp_path, start=4, on=True) as trace:
    for step in range(4, 14):
      trace.before_step(step, jnp.zeros(3) + step)
      with trace.annotated(step):
        jnp.ones(3).sum().block_until_ready()
  (file,) = tmp_path.glob('profile/**/*.trace.json.gz')
  events = json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
  steps = [event['args']['step_num'] for event in events if event.get('name') == 'train']
  assert sorted(map(int, steps)) == [7, 8, 9]
