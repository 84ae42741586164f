import jax
import numpy as np
import pytest

from memkd_jax import config as base
from memkd_jax.errors import UserError
from memkd_jax.methods.distillation import System
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers import weights


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


def save_teacher(path, stages=(1, 2, 3, 4), backbone='tiny_basic'):
  params = weights.random_teacher(backbone)
  kept = {n: p for n, p in params.items() if n == 'stem' or int(n[-1]) in stages}
  weights.save_teacher(path, backbone, kept, {})
  return str(path)


def test_m3_target_follows_the_weights(tiny_config, tmp_path, one_device):
  tiny_config.model.teacher_weights = save_teacher(tmp_path / 'full.safetensors')
  assert System(tiny_config, one_device).notes == []
  tiny_config.model.teacher_weights = save_teacher(tmp_path / 'part.safetensors', (1, 2, 3))
  notes = System(tiny_config, one_device).notes
  assert len(notes) == 1
  assert 'no stage 4' in notes[0]
  tiny_config.model.m3_target = 'stage4'
  with pytest.raises(UserError, match=r'part\.safetensors holds no stage 4'):
    System(tiny_config, one_device)
  tiny_config.model.memories = (1, 2)  # without M_3 nothing asks for stage 4
  assert System(tiny_config, one_device).notes == []
  tiny_config.model.memories = (1, 2, 3)
  tiny_config.model.m3_target = 'embedding'
  assert 'target of M_3 is the embedding' in System(tiny_config, one_device).notes[0]
  tiny_config.model.stages = (2, 3)
  assert 'M_1 is not built' in System(tiny_config, one_device).notes[0]


def test_without_memories_any_number_of_exemplars_will_do(tiny_config):
  tiny_config.model.memories = ()
  tiny_config.train.exemplars = 3
  System(tiny_config, Devices())


def test_weights_of_another_backbone_are_refused(tiny_config, tmp_path, one_device):
  tiny_config.model.teacher_weights = save_teacher(tmp_path / 'x.safetensors')
  tiny_config.model.backbone = 'tiny_bottleneck'
  with pytest.raises(UserError, match=r'holds a tiny_basic, .*py --arch=tiny_bottleneck'):
    System(tiny_config, one_device)


@pytest.mark.parametrize('field', ['train.batch_size', 'train.exemplars'])
def test_what_the_devices_do_not_divide_is_refused(tiny_config, field):
  section, name = field.split('.')
  tiny_config[section][name] = 6
  with pytest.raises(UserError, match=f'{field}=6 cannot be split equally over 4 devices'):
    System(tiny_config, Devices())


def test_float64_needs_x64(tiny_config, one_device):
  tiny_config.model.dtype = 'float64'
  with pytest.raises(UserError, match='JAX_ENABLE_X64'):
    System(tiny_config, one_device)


def test_memories_can_start_from_exemplar_features(tiny_config, one_device, images):
  tiny_config.model.memory_init = 'exemplars'
  system = System(tiny_config, one_device)
  params = system.init_state('bolt', 0, images).params
  chosen = images[system.exemplar_indices('bolt', 0, 10, 0)]
  _, features = jax.jit(system._inputs)(weights.random_teacher('tiny_basic'), chosen)
  rows = np.asarray(features[2]).reshape(-1, features[2].shape[-1])  # M_2 <- stage 3
  memory = params['memory_m2']
  np.testing.assert_array_equal(memory['keys'], memory['values'])
  distances = np.abs(memory['keys'][:, None] - rows).max(-1).min(-1)
  np.testing.assert_allclose(distances, 0, atol=1e-4)
  again = system.init_state('bolt', 0, images).params
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_initialisation_depends_on_the_category(tiny_config, one_device, images):
  system = System(tiny_config, one_device)
  a, b = (system.init_state(c, 0, images).params['memory_m1']['keys'] for c in ('bolt', 'nut'))
  assert not np.array_equal(a, b)


def test_a_student_of_other_widths_is_refused(tiny_config, one_device):
  tiny_config.model.paradigm = 'forward'
  tiny_config.model.student = 'tiny_bottleneck'
  with pytest.raises(UserError, match=r'student=tiny_bottleneck: .*projection=True'):
    System(tiny_config, one_device)
  tiny_config.model.projection = True
  system = System(tiny_config, one_device)
  assert system.memories == (1, 2)
  assert system.notes[0].startswith('M_3 is not built')


@pytest.mark.parametrize('paradigm', ['reverse', 'forward'])
def test_what_is_diagnosed(tiny_config, one_device, images, paradigm):
  """Against the formulas, from one position's query, feature and recall."""
  tiny_config.model.paradigm = paradigm
  system = System(base.resolve(tiny_config), one_device)
  state = system.init_state('bolt', 0, images)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  devices = system.devices
  found = system.diagnose_step(
    system.inference_variables(state), system.teacher_params, devices.shard(images[:2])
  )
  found = jax.tree.map(lambda x: devices.unshard(x, 2), found)
  assert set(found) == ({'m1', 'm2', 'm3'} if paradigm == 'reverse' else {'m1', 'm2'})

  def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)

  inputs, features = system._inputs(weights.random_teacher('tiny_basic'), images[:2])
  student = system._distiller.apply(variables, inputs, features).features
  memory = state.params['memory_m1']
  query = student[2] if paradigm == 'reverse' else student[1]
  logits = unit(query) @ unit(memory['keys']).T
  w = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(found['m1']['usage'], w.mean((1, 2)), rtol=1e-4)
  entropy = -(w * np.log(w)).sum(-1) / np.log(w.shape[-1])
  np.testing.assert_allclose(found['m1']['entropy'], entropy, rtol=1e-4)
  feature = np.asarray(features[1] if paradigm == 'reverse' else features[0])
  logits = unit(feature) @ unit(memory['values']).T
  w = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  cosine = (unit(feature) * unit(w @ memory['values'])).sum(-1)
  np.testing.assert_allclose(found['m1']['cosine'], cosine, atol=1e-4)


def test_bfloat16_computes_in_it_and_keeps_float32(tiny_config, one_device, images):
  losses, scores = [], []
  for dtype in ('float32', 'bfloat16'):
    tiny_config.model.dtype = dtype
    system = System(base.resolve(tiny_config), one_device)
    state = one_device.replicate(system.init_state('bolt', 0, images))
    data = system.training_data(images)
    for step in range(4):
      indices = system.exemplar_indices('bolt', 0, len(images), step)
      state, terms = system.train_step(
        state, system.teacher_params, data.draw(np.arange(8)), data.draw(indices)
      )
      assert {x.dtype.name for x in jax.tree.leaves(terms)} == {'float32'}
      losses.append(float(terms['loss'][0]))
    trained = one_device.unreplicate(state)
    floats = [x for x in jax.tree.leaves(trained) if x.dtype != np.int32]
    assert {x.dtype.name for x in floats} == {'float32'}
    maps, score = system.score_step(
      system.inference_variables(trained), system.teacher_params, images[None, :4]
    )
    assert maps.dtype == np.float32
    scores.append(np.asarray(score))
  assert losses[:4] != losses[4:]
  np.testing.assert_allclose(losses[:4], losses[4:], rtol=0.03)
  np.testing.assert_allclose(scores[0], scores[1], rtol=0.1)
