"""A training that goes on from a model: where it begins, where it leads, what is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest

from memkd_jax.data.sampling import exemplar_indices
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Start, Task

pytestmark = pytest.mark.newest

BOLT = Task.of_category('bolt', seed=0)
IMAGES = np.random.default_rng(8).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def take_steps(trainer, device, state, steps):
  """The state after some steps, and the loss of each."""
  state, losses = device.replicate(state), []
  cache = trainer.teacher.cache(IMAGES)
  for step in range(steps):
    exemplars = exemplar_indices(0, 'bolt', 8, 4, step, 8)
    state, terms = trainer.train_step(state, *trainer.inputs(cache, np.arange(8), exemplars))
    losses.append(float(terms['loss'][0]))
  return device.unreplicate(state), losses


def start_of(trainer, state, sha256='ab'):
  kept = trainer._method.distiller.unfolding(state.params, state.batch_stats)
  return Start(trainer.fold(state), jax.tree.map(np.asarray, kept), sha256, Path('old'))


@pytest.mark.parametrize(
  ('paradigm', 'fusion'), [('reverse', 'concat'), ('forward', 'replace')]
)
def test_it_begins_where_the_model_ended(
  tiny_config, one_device, make_method, paradigm, fusion
):
  tiny_config.model.paradigm, tiny_config.model.fusion = paradigm, fusion
  trainer = make_method(tiny_config, one_device).trainer
  fresh = trainer.init_state(BOLT, IMAGES)
  trained, first = take_steps(trainer, one_device, fresh, 6)
  warm = trainer.init_state(BOLT, IMAGES, start_of(trainer, trained))
  assert jax.tree.structure(warm) == jax.tree.structure(trained)
  assert warm.step == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(warm.opt_state))
  np.testing.assert_allclose(
    *(jax.flatten_util.ravel_pytree(s.params)[0] for s in (warm, trained)), rtol=3e-7
  )
  jax.tree.map(np.testing.assert_array_equal, warm.batch_stats, trained.batch_stats)

  _, continued = take_steps(trainer, one_device, trained, 1)
  _, warm_losses = take_steps(trainer, one_device, warm, 4)
  assert warm_losses[0] == pytest.approx(continued[0], rel=3e-6)  # kernels agree to 3e-7
  assert warm_losses[-1] < warm_losses[0]
  assert warm_losses[-1] < 0.8 * first[3]  # a fresh start's after as many steps


def test_exemplars_are_not_drawn_into_the_memories_of_a_model(
  tiny_config, one_device, make_method
):
  tiny_config.model.memory_init = 'exemplars'
  trainer = make_method(tiny_config, one_device).trainer
  fresh = trainer.init_state(BOLT, IMAGES)
  start = start_of(trainer, fresh)
  start.params['memory_m1']['keys'] = start.params['memory_m1']['keys'] + 1
  keys = trainer.init_state(BOLT, IMAGES, start).params['memory_m1']['keys']
  np.testing.assert_array_equal(keys, fresh.params['memory_m1']['keys'] + 1)


def test_what_does_not_belong_together_is_refused(
  tiny_config, one_device, make_method, tmp_path
):
  tiny_config.model.memories, tiny_config.model.stages = (), (3,)
  method = make_method(tiny_config, one_device)
  start = start_of(method.trainer, method.trainer.init_state(BOLT, IMAGES))
  first = method.fit(BOLT, IMAGES, tmp_path, start)
  again = method.fit(BOLT, IMAGES, tmp_path, start)  # takes no step more
  jax.tree.map(np.testing.assert_array_equal, first, again)
  for other in (None, start._replace(sha256='cd')):
    with pytest.raises(UserError, match=r'checkpoints began with another model than --warm-s'):
      method.fit(BOLT, IMAGES, tmp_path, other)
  tiny_config.model.stages = (1,)
  other = make_method(tiny_config, one_device)
  with pytest.raises(UserError, match=r'old holds other parameters than this model has; train'):
    other.fit(BOLT, IMAGES, tmp_path / 'other', start)
