"""Takes training steps on given numbers of devices; started as a process of its own.

  python tests/scaling_steps.py OUT DTYPE STEPS DEVICES [PORT COUNT ID]

Writes OUT, for each number n of DEVICES (such as 1,4): `losses_<n>` of all steps, and
`gradients_<n>` and `statistics_<n>` of the first. With COUNT processes DEVICES is the
number in all of them.
"""

import sys

import jax
import numpy as np

from memkd_jax import config as base
from memkd_jax import processes
from memkd_jax.parallel import Devices
from memkd_jax.system import System


def main(out, dtype, steps, numbers, port=None, count=None, process=None):
  if port is not None:
    processes.start(f'127.0.0.1:{port}', int(count), int(process))
  config = base.get_config()
  config.data.image_size = 32
  config.model.backbone = 'tiny_basic'
  config.model.teacher_weights = 'random'
  config.model.memory_items = 5
  config.model.dtype = dtype
  images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
  results = {}
  for number in numbers.split(','):
    devices = Devices(None if processes.count() > 1 else jax.devices()[: int(number)])
    assert len(devices) == int(number)
    system = System(config, devices)
    state = devices.replicate(system.init_state('bolt', 0, images))
    data, losses = system.training_data(images), []
    for step in range(int(steps)):
      state, terms = system.train_step(
        state,
        system.teacher_params,
        data.draw(np.arange(16) + step % 5),
        data.draw(system.exemplar_indices('bolt', 0, 20, step)),
      )
      losses.append(devices.fetch(terms)['loss'])
      if step == 0:
        first = devices.fetch(state)
        # Adam's mean of gradients is (1 - b1) times the first one.
        mean = flat(first.opt_state[0].mu)
        results[f'gradients_{number}'] = mean / (1 - config.train.adam_b1)
        results[f'statistics_{number}'] = flat(first.batch_stats)
    assert devices.fetch(state).params['memory_m1']['keys'].dtype == dtype
    results[f'losses_{number}'] = np.array(losses)
  np.savez(out, **results)


def flat(tree):
  return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


if __name__ == '__main__':
  main(*sys.argv[1:])
