"""What is built of a config, and how a trained student scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.models.distiller import Slot
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers import weights

BOLT = Task.of_category('bolt', seed=0)


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


def save_teacher(path, stages=(1, 2, 3, 4), backbone='tiny_basic'):
  params = weights.random_teacher(backbone)
  kept = {n: p for n, p in params.items() if n == 'stem' or int(n[-1]) in stages}
  weights.save_teacher(path, backbone, kept, {})
  return str(path)


def test_m3_target_follows_the_weights(tiny_config, tmp_path, one_device, make_method):
  tiny_config.model.teacher_weights = save_teacher(tmp_path / 'full.safetensors')
  method = make_method(tiny_config, one_device)
  assert method.notes == method.extractor.notes == []
  assert (method.depth, method.stages, method.diagnosed_stages) == (4, (1, 2, 3), (4,))
  tiny_config.model.teacher_weights = save_teacher(tmp_path / 'part.safetensors', (1, 2, 3))
  method = make_method(tiny_config, one_device)
  assert len(method.notes) == 1
  assert 'no stage 4' in method.notes[0]
  assert (method.depth, method.diagnosed_stages) == (3, ())
  tiny_config.model.m3_target = 'stage4'
  with pytest.raises(UserError, match=r'part\.safetensors holds no stage 4'):
    make_method(tiny_config, one_device)
  tiny_config.model.memories = (1, 2)  # without M_3 nothing asks for stage 4
  assert make_method(tiny_config, one_device).notes == []
  tiny_config.model.memories = (1, 2, 3)
  tiny_config.model.m3_target = 'embedding'
  assert 'target of M_3 is the embedding' in make_method(tiny_config, one_device).notes[0]
  tiny_config.model.stages = (2, 3)
  assert 'M_1 is not built' in make_method(tiny_config, one_device).notes[0]


@pytest.mark.parametrize(
  ('paradigm', 'memories', 'name', 'targets'),
  [
    ('reverse', (1, 2, 3), 'MemKD', {3: 4, 2: 3, 1: 2}),
    ('reverse', (), 'RD', {}),
    ('forward', (1, 2, 3), 'MemMKD', {1: 1, 2: 2}),
    ('forward', (), 'Multiresolution distillation', {}),
  ],
)
def test_each_kind_has_its_name_and_its_targets(
  tiny_config, one_device, make_method, paradigm, memories, name, targets
):
  tiny_config.model.paradigm, tiny_config.model.memories = paradigm, memories
  method = make_method(tiny_config, one_device)
  assert method.name == name
  assert list(method.targets.items()) == list(targets.items())  # in running order


def test_aligned_memories_need_no_stage_4(tiny_config, tmp_path, one_device, make_method):
  tiny_config.model.memory_layout = 'aligned'
  for stages in ((1, 2, 3), (1, 2, 3, 4)):
    tiny_config.model.teacher_weights = save_teacher(tmp_path / 'x.safetensors', stages)
    method = make_method(tiny_config, one_device)
    assert list(method.targets.items()) == [(3, 3), (2, 2)]
    assert (method.depth, method.diagnosed_stages) == (3, ())
    assert method.notes == ['M_1 is not built: no distilled stage lies behind it.']
  tiny_config.model.m3_target = 'stage4'
  with pytest.raises(UserError, match=r'm3_target=stage4: .*memory_layout=aligned'):
    make_method(tiny_config, one_device)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('model.memory_layout', 'aligned'),
    ('model.bottleneck_dropout', 0.2),
    ('model.adapt_teacher', True),
    ('train.feature_noise', 'simplex'),
  ],
)
def test_what_the_reverse_paradigm_alone_can_do(
  tiny_config, one_device, make_method, field, value
):
  tiny_config.model.paradigm = 'forward'
  tiny_config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=f'{field}={value}: .*paradigm=reverse'):
    make_method(tiny_config, one_device)


def test_maps_of_an_adapted_teacher(tiny_config, one_device, images, make_method):
  """The distances from both teachers, of the network as it is trained."""
  tiny_config.model.adapt_teacher = True
  method = make_method(tiny_config, one_device)
  state, images = method.trainer.init_state(BOLT, images), images[:2]
  known = method.extractor.params
  jax.tree.map(
    np.testing.assert_array_equal,
    state.params['teacher'],
    {name: known[name] for name in ('stem', 'stage1', 'stage2', 'stage3')},
  )
  rng = np.random.default_rng(0)  # or both teachers give the same
  moved = jax.tree.map(
    lambda x: (x + 0.1 * np.abs(x).mean() * rng.normal(size=x.shape)).astype(np.float32),
    state.params['teacher'],
  )
  state = state.replace(params={**state.params, 'teacher': moved})
  features = method.extractor(known, images)
  found = method.distiller.clone(axis_name=None).apply(
    {'params': state.params, 'batch_stats': state.batch_stats},
    method.extractor.normalize(images),
    features,
  )
  maps = jax.jit(method.maps)(method.trainer.fold(state), features, images)
  for k, map_ in maps.items():
    for p in np.ndindex(map_.shape):
      total = 0.0
      for a, b in ((features[k - 1], found.features[k]), (found.adapted[k], found.rebuilt[k])):
        x, y = np.asarray(a[p]), np.asarray(b[p])
        total += 1 - x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-12)
      np.testing.assert_allclose(map_[p], total, atol=1e-4)
    assert np.abs(found.adapted[k] - features[k - 1]).max() > 1e-3


def test_without_memories_any_number_of_exemplars_will_do(tiny_config, make_method):
  tiny_config.model.memories = ()
  tiny_config.train.exemplars = 3
  make_method(tiny_config, Devices())


def test_weights_of_another_backbone_are_refused(
  tiny_config, tmp_path, one_device, make_method
):
  tiny_config.model.teacher_weights = save_teacher(tmp_path / 'x.safetensors')
  tiny_config.model.backbone = 'tiny_bottleneck'
  with pytest.raises(
    UserError, match=r'holds a tiny_basic, .*memkd weights --arch=tiny_bottleneck'
  ):
    make_method(tiny_config, one_device)


@pytest.mark.parametrize('field', ['train.batch_size', 'train.exemplars'])
def test_what_the_devices_do_not_divide_is_refused(tiny_config, make_method, field):
  section, name = field.split('.')
  tiny_config[section][name] = 6
  with pytest.raises(UserError, match=f'{field}=6 cannot be split equally over 4 devices'):
    make_method(tiny_config, Devices())


def test_a_student_of_other_widths_is_refused(tiny_config, one_device, make_method):
  tiny_config.model.paradigm = 'forward'
  tiny_config.model.student = 'tiny_bottleneck'
  with pytest.raises(UserError, match=r'student=tiny_bottleneck: .*projection=True'):
    make_method(tiny_config, one_device)
  tiny_config.model.projection = True
  method = make_method(tiny_config, one_device)
  assert method.slots == (
    Slot(memory=1, stage=2, target=1),
    Slot(memory=2, stage=3, target=2),
  )
  assert method.notes[0].startswith('M_3 is not built')


def test_targets_of_the_memories(tiny_config, one_device, make_method):
  features = tuple(np.full((1, 1, 1, 1), float(k)) for k in (1, 2, 3, 4))
  embedding = np.full((1, 1, 1, 1), 9.0)

  def values(method, features):
    targets = method.memory_targets(features, embedding)
    return {m: float(target.squeeze()) for m, target in targets.items()}

  method = make_method(tiny_config, one_device)
  assert values(method, features) == {1: 2.0, 2: 3.0, 3: 4.0}
  assert values(method, features[:3]) == {1: 2.0, 2: 3.0, 3: 9.0}
  tiny_config.model.paradigm = 'forward'
  assert values(make_method(tiny_config, one_device), features) == {1: 1.0, 2: 2.0}


def test_the_embedding_as_a_target_gets_no_gradient(tiny_config, one_device, make_method):
  tiny_config.model.memories = (3,)
  method = make_method(tiny_config, one_device)

  def through_target(embedding):
    return method.memory_targets((), embedding)[3].sum()

  assert jax.grad(through_target)(jnp.ones((1, 1, 1, 2))).max() == 0


@pytest.mark.parametrize('paradigm', ['reverse', 'forward'])
def test_what_is_diagnosed(tiny_config, one_device, images, make_method, paradigm):
  """Against the formulas, from one position's query, feature and recall."""
  tiny_config.model.paradigm = paradigm
  method = make_method(tiny_config, one_device)
  extractor, images = method.extractor, images[:2]
  state = method.trainer.init_state(BOLT, images)
  params = method.trainer.fold(state)
  features = jax.jit(extractor, static_argnums=2)(extractor.params, images, method.depth)
  maps, found = jax.jit(method.diagnosed_maps)(params, features, images)
  assert set(found) == ({'m1', 'm2', 'm3'} if paradigm == 'reverse' else {'m1', 'm2'})

  def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)

  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  distiller, inputs = method.distiller.clone(axis_name=None), extractor.normalize(images)
  student = jax.jit(distiller.apply)(variables, inputs, features[:3]).features
  alone = jax.jit(method.maps)(params, features[:3], images)
  assert list(maps) == list(alone) == list(student)
  for k, feature in student.items():
    expected = 1 - (unit(np.asarray(feature)) * unit(np.asarray(features[k - 1]))).sum(-1)
    np.testing.assert_allclose(maps[k], expected, atol=1e-4)
    np.testing.assert_array_equal(maps[k], alone[k])

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


def test_without_memories_there_is_nothing_to_diagnose(
  tiny_config, one_device, images, make_method
):
  tiny_config.model.memories = ()
  method = make_method(tiny_config, one_device)
  params = method.trainer.fold(method.trainer.init_state(BOLT, images))
  features = jax.jit(method.extractor)(method.extractor.params, images[:2])
  maps, found = jax.jit(method.diagnosed_maps)(params, features, images[:2])
  assert found == {}
  alone = jax.jit(method.maps)(params, features, images[:2])
  jax.tree.map(np.testing.assert_array_equal, maps, alone)
