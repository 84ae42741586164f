"""Takes training steps on given numbers of devices; started as a process of its own.

  python tests/scaling_steps.py OUT DTYPE STEPS DEVICES [PORT COUNT ID]

Writes OUT, for each number n of DEVICES (such as 1,4): `losses_<n>` of all steps, and
`gradients_<n>` and `statistics_<n>` of the first. With COUNT processes DEVICES is the
number in all of them, and it is checked first that they agree with each other.
"""

import sys

import jax
import numpy as np
import pytest

from memkd_jax import methods
from memkd_jax.data.sampling import exemplar_indices
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.runtime import hosts, join
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor


def main(out, dtype, steps, numbers, port=None, count=None, process=None):
  if port is not None:
    join.start(f'127.0.0.1:{port}', int(count), int(process))
    check_agreement(int(process))
  config = methods.get_config()
  config.data.image_size = 32
  config.model.backbone = 'tiny_basic'
  config.model.teacher_weights = 'random'
  config.model.memory_items = 5
  config.model.dtype = dtype
  config = methods.resolve(config)
  extractor = FeatureExtractor('tiny_basic', 'random', dtype)
  images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
  results = {}
  for number in numbers.split(','):
    devices = Devices(None if hosts.count() > 1 else jax.devices()[: int(number)])
    assert len(devices) == int(number)
    trainer = methods.create(config, extractor, devices).trainer
    state = devices.replicate(trainer.init_state(Task.of_category('bolt', 0), images))
    cache, losses = trainer.teacher.cache(images), []
    for step in range(int(steps)):
      batch = np.arange(16) + step % 5
      exemplars = exemplar_indices(0, 'bolt', 20, 16, step, 16)
      state, terms = trainer.train_step(state, *trainer.inputs(cache, batch, exemplars))
      losses.append(devices.unreplicate(terms)['loss'])
      if step == 0:
        first = devices.unreplicate(state)
        # Adam's mean of gradients is (1 - b1) times the first one.
        mean = flat(first.opt_state[0].mu)
        results[f'gradients_{number}'] = mean / (1 - config.train.adam_b1)
        results[f'statistics_{number}'] = flat(first.batch_stats)
    assert devices.unreplicate(state).params['memory_m1']['keys'].dtype == dtype
    results[f'losses_{number}'] = np.array(losses)
  np.savez(out, **results)


def check_agreement(process):
  """What one of two processes knows, or fails in, the other gets to know."""
  assert hosts.count() == 2
  assert hosts.is_main() == (process == 0)
  assert hosts.exchange('x' * 3000 * process) == ['', 'x' * 3000]
  tree = {'a': np.full(3, process, np.float32), 'b': np.int32(process + 5)}
  received = hosts.broadcast_from_main(tree)
  np.testing.assert_array_equal(received['a'], np.zeros(3, np.float32))
  assert received['b'] == 5
  assert (received['a'].dtype, received['b'].dtype) == (np.float32, np.int32)

  assert hosts.on_main(lambda: [process, None]) == [0, None]
  with pytest.raises(UserError, match='Process 0: no'):
    hosts.on_main(lambda: fail(UserError('no')))
  with pytest.raises(UserError, match='Process 1: gone'), hosts.raise_together():
    if process == 1:
      raise FileNotFoundError('gone')
  hosts.check_same(lambda: {'a': [1]}, 'flags')
  with pytest.raises(UserError, match='Process 0 and process 1 have different flags'):
    hosts.check_same(lambda: process, 'flags')
  with pytest.raises(UserError, match=r'different flags \(of process 1, 0 became 1\); start'):
    hosts.check_same(lambda: process, 'flags', lambda a, b: f'{a} became {b}')

  devices = Devices()
  images = np.arange(5 * 2, dtype=np.uint8).reshape(5, 2)
  share = devices.pad_shard(images, 8)
  assert share.shape == (len(devices.local), 8 // len(devices), 2)
  np.testing.assert_array_equal(devices.unshard(devices.map(lambda x: x)(share), 5), images)
  with pytest.raises(UserError, match=f'batch_size=7 .* {len(devices)} devices'):
    devices.check_divide(7, 'train.batch_size')


def fail(error):
  raise error


def flat(tree):
  return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


if __name__ == '__main__':
  main(*sys.argv[1:])
