"""What is read of programs: by hand in small ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.runtime import programs
from memkd_jax.runtime.devices import AXIS, Devices


@pytest.fixture
def program():
  """A product on each of four devices, summed over them, with one array given to all."""
  devices = Devices()

  def body(x):
    whole = jax.lax.all_gather(x, AXIS)
    return jax.lax.psum(x @ x.T, AXIS), whole.sum(0).astype(jnp.bfloat16)

  mapped = devices.map(body)
  return devices, mapped, (jax.ShapeDtypeStruct((4, 8, 16), np.float32),)


def test_a_compiled_program(program):
  devices, mapped, arguments = program
  cost = programs.compiled_cost(devices.lower(mapped, arguments))
  assert cost.collectives['all-reduce'] == (1, 8 * 8 * 4)
  assert cost.collectives['all-gather'] == (1, 4 * 8 * 16 * 4)
  assert cost.flops >= 2 * 8 * 8 * 16
  assert cost.memory['arguments'] == 8 * 16 * 4
  assert cost.memory['outputs'] >= 8 * 8 * 4 + 8 * 16 * 2
  kinds = ('arguments', 'outputs', 'temporaries', 'code')
  assert cost.peak == sum(cost.memory[k] for k in kinds) - cost.memory['shared']
  assert cost.seconds > 0 and cost.bytes_accessed > 0


@pytest.mark.parametrize('platform', [None, 'tpu'])
def test_one_that_is_lowered_only(program, platform):
  devices, mapped, arguments = program
  cost = programs.lowered_cost(devices.lower(mapped, arguments, platform))
  assert cost.collectives == {'all-gather': (1, 4 * 8 * 16 * 4), 'all-reduce': (1, 8 * 8 * 4)}
  assert cost.operations > 4
  assert (cost.memory, cost.peak, cost.seconds) == (None, None, None)
  assert 2 * 8 * 8 * 16 <= cost.flops < 4 * 2 * 8 * 8 * 16  # of one device


def test_the_text_of_a_tpu_is_read():
  """Several results at once, layouts with brackets, and the asynchronous form."""
  text = """
  %a = (f32[2,8]{1,0:T(8,128)}, bf16[]{:T(256)}) all-reduce(%x, %y), channel_id=1
  %b = f32[256]{0:T(256)} all-reduce-start(%z), channel_id=2
  %c = f32[256]{0:T(256)} all-reduce-done(%b)
  %d = (f32[4]{0}, f32[16]{0}) all-gather-start(%w), dimensions={0}
  %e = f32[16]{0} all-gather-done(%d)
  %f = f32[8]{0} fusion(%a), calls=%all-reduce.7
  """
  assert programs.collectives_of_hlo(text) == {
    'all-gather': (1, 64),
    'all-reduce': (2, 64 + 2 + 1024),
  }


@pytest.mark.parametrize(
  ('text', 'size'),
  [
    ('tensor<f32>', 4),
    ('tensor<2x3xbf16>', 12),
    ('tensor<5xi1>', 5),
    ('tensor<2xui8>', 2),
    ('tensor<3xi32>', 12),
    ('!stablehlo.token', 0),
  ],
)
def test_types_have_sizes(text, size):
  assert programs._bytes_of_type(text) == size
