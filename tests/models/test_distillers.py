import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.models.distiller import LAYOUTS, Slot
from memkd_jax.models.distillers import ForwardDistiller, ReverseDistiller, check_pair
from memkd_jax.models.resnet import ARCHITECTURES, Teacher

pytestmark = pytest.mark.newest

BACKBONES = ['resnet18', 'resnet34', 'resnet50', 'wide_resnet50_2']


def shapes_of(module, *args):
  """Shapes of parameters and outputs, without computing anything."""
  key = jax.random.key(0)
  variables = jax.eval_shape(module.init, key, *args)
  return variables, jax.eval_shape(module.apply, variables, *args)


def count(tree):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('backbone', BACKBONES)
def test_student_has_the_teachers_shapes_at_256(backbone):
  images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  _, features = shapes_of(Teacher(backbone, stages=4), images)
  _, distilled = shapes_of(ReverseDistiller(backbone), images, features[:3])
  assert [f.shape for f in features] == [
    (1, 64, 64, ARCHITECTURES[backbone].channels(1)),
    (1, 32, 32, ARCHITECTURES[backbone].channels(2)),
    (1, 16, 16, ARCHITECTURES[backbone].channels(3)),
    (1, 8, 8, ARCHITECTURES[backbone].channels(4)),
  ]
  assert {k: distilled.features[k].shape for k in (1, 2, 3)} == {
    k: features[k - 1].shape for k in (1, 2, 3)
  }
  assert distilled.embedding.shape == features[3].shape


@pytest.mark.parametrize(
  ('backbone', 'parameters'),
  # torchvision's own counts, less 1000 * (C_4 + 1) of the classifier, with each
  # BatchNorm's 2C replaced by a bias of C: kernels + channels.
  [
    ('resnet18', 11_689_512 - 513_000 - 4_800),
    ('resnet34', 21_797_672 - 513_000 - 8_512),
    ('resnet50', 25_557_032 - 2_049_000 - 26_560),
    ('wide_resnet50_2', 68_883_240 - 2_049_000 - 34_112),
  ],
)
def test_teacher_has_torchvisions_parameters(backbone, parameters):
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  variables, _ = shapes_of(Teacher(backbone, stages=4), images)
  assert count(variables) == parameters


@pytest.mark.parametrize(
  ('backbone', 'blocks'), [('resnet18', (2, 2, 2)), ('wide_resnet50_2', (3, 4, 6))]
)
def test_decoder_has_rds_block_counts(backbone, blocks):
  features = [
    jax.ShapeDtypeStruct((1, 64 // 2**k, 64 // 2**k, ARCHITECTURES[backbone].channels(k)), 'f4')
    for k in (1, 2, 3)
  ]
  variables, _ = shapes_of(ReverseDistiller(backbone), None, tuple(features))
  params = variables['params']
  assert tuple(len(params[f'student_stage{k}']) for k in (3, 2, 1)) == blocks
  assert len(params['bottleneck']['embed']) == ARCHITECTURES[backbone].blocks[3]


@pytest.fixture
def features(rng):
  arch = ARCHITECTURES['tiny_bottleneck']
  return tuple(
    np.abs(rng.normal(size=(2, 16 // 2**k, 16 // 2**k, arch.channels(k)))).astype(np.float32)
    for k in (1, 2, 3)
  )


@pytest.mark.parametrize('backbone', ['tiny_basic', 'tiny_bottleneck'])
def test_without_memories_nothing_of_them_remains(backbone):
  arch = ARCHITECTURES[backbone]
  features = tuple(
    jnp.ones((1, 8 // k, 8 // k, arch.channels(i))) for i, k in ((1, 1), (2, 2), (3, 4))
  )
  with_memories = ReverseDistiller(backbone).init(jax.random.key(0), None, features)['params']
  without = ReverseDistiller(backbone, memories=()).init(jax.random.key(0), None, features)[
    'params'
  ]
  assert {n for n in with_memories if n.startswith('memory')} == {
    'memory_m1',
    'memory_m2',
    'memory_m3',
  }
  assert with_memories.keys() - without.keys() == {'memory_m1', 'memory_m2', 'memory_m3'}
  # concat feeds 2C channels to a stage, RD feeds C.
  inputs = [
    p['student_stage3']['block0']['shortcut']['kernel'].shape[0]
    for p in (with_memories, without)
  ]
  assert inputs == [2 * arch.channels(4), arch.channels(4)]


@pytest.mark.parametrize('fusion', ['concat', 'add', 'replace'])
def test_fusion(features, fusion):
  """The stage after a memory sees q and r exactly as the fusion says."""
  model = ReverseDistiller('tiny_bottleneck', memories=(3,), memory_items=4, fusion=fusion)
  variables = model.init(jax.random.key(0), None, features)
  q = model.apply(variables, None, features).embedding
  memory = variables['params']['memory_m3']
  cosines = (q / np.linalg.norm(q, axis=-1, keepdims=True)) @ (
    memory['keys'] / np.linalg.norm(memory['keys'], axis=-1, keepdims=True)
  ).T
  r = jax.nn.softmax(cosines) @ memory['values']
  fused = {'concat': np.concatenate([q, r], -1), 'add': q + r, 'replace': r}[fusion]
  bare = ReverseDistiller('tiny_bottleneck', memories=())
  params = {n: p for n, p in variables['params'].items() if n != 'memory_m3'}
  stage = bare.bind({'params': params, 'batch_stats': variables['batch_stats']})
  x = fused
  for k in (3, 2, 1):
    x = stage.student[f'stage{k}'](x, False)
  np.testing.assert_allclose(model.apply(variables, None, features).features[1], x, atol=1e-4)


def test_only_what_leads_to_a_distilled_stage_is_built(features):
  assert ReverseDistiller.built_stages((1, 3)) == (3, 2, 1)
  assert ReverseDistiller.built_stages((3,)) == (3,)
  m3, m2, m1 = ReverseDistiller.slots((1, 2, 3), (1, 2, 3))
  assert (m3, m2, m1) == (Slot(3, 3, 4), Slot(2, 2, 3), Slot(1, 1, 2))
  assert ReverseDistiller.slots((2, 3), (1, 2, 3)) == (m3, m2)
  assert ReverseDistiller.slots((1,), (2,)) == (m2,)
  assert ReverseDistiller.slots((1,), ()) == ()
  model = ReverseDistiller('tiny_bottleneck', stages=(2, 3), memory_items=4)
  variables = model.init(jax.random.key(0), None, features)
  assert set(model.apply(variables, None, features).features) == {2, 3}
  assert 'student_stage1' not in variables['params']
  assert 'memory_m1' not in variables['params']


def test_aligned_memories_sit_behind_the_stage_of_their_number(features):
  """Stage by stage: M_3 recalls for F_S^3 what stage 2 takes, M_2 for F_S^2."""
  model = ReverseDistiller('tiny_bottleneck', memory_items=4, layout='aligned')
  variables = model.init(jax.random.key(0), None, features)
  params = variables['params']
  widths = {n: p['keys'].shape[1] for n, p in params.items() if n.startswith('memory')}
  channels = ARCHITECTURES['tiny_bottleneck'].channels
  assert widths == {'memory_m3': channels(3), 'memory_m2': channels(2)}
  found = model.apply(variables, None, features)

  def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  def recall(m, query):
    memory = params[f'memory_m{m}']
    return jax.nn.softmax(unit(query) @ unit(memory['keys']).T) @ memory['values']

  stages = model.bind(variables).student
  x = found.embedding
  for k in (3, 2, 1):
    x = stages[f'stage{k}'](x, False)
    np.testing.assert_allclose(found.features[k], x, rtol=1e-3, atol=1e-4)
    if k > 1:
      x = np.concatenate([x, recall(k, x)], -1)


@pytest.mark.parametrize('stages', [(1, 2, 3), (2, 3), (3,)])
def test_aligned_slots(stages):
  m3, m2 = Slot(3, 2, 3), Slot(2, 1, 2)
  built = {1: (m3, m2), 2: (m3,), 3: ()}[min(stages)]
  assert ReverseDistiller.slots(stages, (1, 2, 3), 'aligned') == built
  without_m3 = tuple(slot for slot in built if slot is not m3)
  assert ReverseDistiller.slots(stages, (1, 2), 'aligned') == without_m3
  assert set(ReverseDistiller.SLOTS) == set(LAYOUTS)


def test_an_adapted_teacher_feeds_the_bottleneck(rng, features):
  """The student behind it is that of a model without, fed with the copy's features."""
  images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
  model = ReverseDistiller('tiny_bottleneck', (1, 3), memory_items=4, adapt=True)
  variables = model.init(jax.random.key(0), images, features)
  params = dict(variables['params'])
  found = model.apply(variables, images, features)
  copy = Teacher('tiny_bottleneck', stages=3).apply({'params': params.pop('teacher')}, images)
  heads = {n: params.pop(n) for n in list(params) if 'head' in n}
  assert set(heads) == {
    'head_stage1',
    'head_stage3',
    'adapted_head_stage1',
    'adapted_head_stage3',
  }
  plain = ReverseDistiller('tiny_bottleneck', (1, 3), memory_items=4)
  inner = plain.apply({'params': params, 'batch_stats': variables['batch_stats']}, None, copy)
  np.testing.assert_allclose(found.embedding, inner.embedding, atol=1e-5)
  for k in (1, 3):
    for name, features_ in (('head', found.features), ('adapted_head', found.rebuilt)):
      head = heads[f'{name}_stage{k}']
      expected = inner.features[k] @ head['kernel'][0, 0] + head['bias']
      np.testing.assert_allclose(features_[k], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.adapted[k], copy[k - 1], atol=1e-5)


def test_no_gradient_flows_into_the_copy_as_a_target(rng, features):
  images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
  model = ReverseDistiller('tiny_bottleneck', memories=(), adapt=True)
  variables = model.init(jax.random.key(0), images, features)

  def through(which):
    def total(params):
      found = getattr(model.apply(variables | {'params': params}, images, features), which)
      return sum(jnp.sum(x) for x in found.values())

    grads = jax.grad(total)(variables['params'])['teacher']
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads))

  assert through('adapted') == 0
  assert through('features') > 0 and through('rebuilt') > 0  # as what the bottleneck sees


@pytest.mark.parametrize('adapt', [False, True])
def test_disturbances_meet_what_the_student_sees(rng, features, adapt):
  """Not what it is compared with, nor the embedding that a memory imitates."""
  images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
  model = ReverseDistiller('tiny_bottleneck', memory_items=4, adapt=adapt)
  variables = model.init(jax.random.key(0), images, features)
  seen = []

  def double(given):
    seen.append(given)
    return jax.tree.map(lambda x: 2 * x, given)

  clean = model.apply(variables, images, features)
  noisy = model.apply(variables, images, features, on_features=double)
  assert len(seen[0]) == 3
  jax.tree.map(np.testing.assert_array_equal, noisy.adapted, clean.adapted)
  assert np.abs(noisy.embedding - clean.embedding).max() > 1e-3
  if not adapt:
    doubled = model.apply(variables, images, double(features))
    jax.tree.map(np.testing.assert_array_equal, noisy, doubled)
  dropped = model.apply(variables, images, features, on_embedding=jnp.zeros_like)
  np.testing.assert_array_equal(dropped.embedding, clean.embedding)
  for k in (1, 2, 3):
    assert np.abs(dropped.features[k] - clean.features[k]).max() > 1e-4


@pytest.mark.parametrize(
  ('teacher', 'student'), [('wide_resnet50_2', 'resnet50'), ('resnet18', 'resnet18')]
)
def test_the_forward_student_has_the_teachers_shapes_at_256(teacher, student):
  images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  _, features = shapes_of(Teacher(teacher, stages=3), images)
  model = ForwardDistiller(teacher, student=student)
  variables, distilled = shapes_of(model, images, None)
  assert {k: f.shape for k, f in distilled.features.items()} == {
    k: features[k - 1].shape for k in (1, 2, 3)
  }
  assert distilled.embedding is None
  # M_1 and M_2 have the widths of stages 1 and 2; behind stage 3 there is nothing to feed.
  params = variables['params']
  assert {n: p['keys'].shape for n, p in params.items() if n.startswith('memory')} == {
    f'memory_m{m}': (50, ARCHITECTURES[teacher].channels(m)) for m in (1, 2)
  }
  # Without memories it is a vanilla network: torchvision's own counts of stem and stages.
  bare = shapes_of(ForwardDistiller(teacher, student=student, memories=()), images, None)[0]
  torchvisions = {'resnet18': 11_689_512 - 513_000, 'resnet50': 25_557_032 - 2_049_000}
  last = {'resnet18': 8_393_728, 'resnet50': 14_964_736}  # layer4
  assert count(bare['params']) == torchvisions[student] - last[student]


@pytest.mark.parametrize('fusion', ['concat', 'add', 'replace'])
def test_forward_memories_feed_the_stage_behind_them(rng, fusion):
  images = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
  model = ForwardDistiller(
    'tiny_basic', student='tiny_basic', memory_items=4, memories=(2,), fusion=fusion
  )
  variables = model.init(jax.random.key(0), images, None)
  features = model.apply(variables, images, None).features
  memory = variables['params']['memory_m2']
  q = features[2]
  cosines = (q / np.linalg.norm(q, axis=-1, keepdims=True)) @ (
    memory['keys'] / np.linalg.norm(memory['keys'], axis=-1, keepdims=True)
  ).T
  r = jax.nn.softmax(cosines) @ memory['values']
  fused = {'concat': np.concatenate([q, r], -1), 'add': q + r, 'replace': r}[fusion]
  expected = model.bind(variables).encoder['stage3'](fused, False)
  np.testing.assert_allclose(features[3], expected, atol=1e-4)


def test_only_what_leads_to_a_distilled_stage_is_built_forward(rng):
  assert ForwardDistiller.built_stages((1, 2)) == (1, 2)
  assert ForwardDistiller.built_stages((3,)) == (1, 2, 3)
  m1, m2 = ForwardDistiller.slots((1, 2, 3), (1, 2, 3))
  assert (m1, m2) == (Slot(1, 2, 1), Slot(2, 3, 2))
  assert ForwardDistiller.slots((1, 2), (1, 2, 3)) == (m1,)
  assert ForwardDistiller.slots((1,), (1, 2, 3)) == ()
  images = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
  model = ForwardDistiller('tiny_basic', stages=(2,), student='tiny_basic', memory_items=4)
  variables = model.init(jax.random.key(0), images, None)
  assert set(model.apply(variables, images, None).features) == {2}
  assert {n for n in variables['params'] if n[-1].isdigit()} == {
    'encoder_stage1',
    'encoder_stage2',
    'memory_m1',
  }


def test_pairs_of_other_widths_are_refused_or_projected(rng):
  check_pair('wide_resnet50_2', 'resnet50', False)
  check_pair('resnet34', 'resnet18', False)
  with pytest.raises(
    UserError, match=r'model\.student=resnet18: .*\(64, 128, 256\).*projection'
  ):
    check_pair('resnet50', 'resnet18', False)
  check_pair('resnet50', 'resnet18', True)
  images = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
  model = ForwardDistiller(
    'tiny_bottleneck', student='tiny_basic', projection=True, memory_items=4
  )
  variables = model.init(jax.random.key(0), images, None)
  features = model.apply(variables, images, None).features
  assert {k: f.shape[-1] for k, f in features.items()} == {
    k: ARCHITECTURES['tiny_bottleneck'].channels(k) for k in (1, 2, 3)
  }


@pytest.mark.parametrize('memories', [(), (1, 2, 3)])
def test_one_student_of_several_pictures(memories, rng):
  """Its stages are those of a student of one picture; what they see and give is of all."""
  arch, pictures, objects = ARCHITECTURES['tiny_bottleneck'], 3, 2
  features = tuple(
    jnp.asarray(rng.normal(size=(objects * pictures, side, side, arch.channels(k))), 'float32')
    for k, side in ((1, 8), (2, 4), (3, 2))
  )
  images = jnp.zeros((objects, 32, 32, 3))
  student = ReverseDistiller('tiny_bottleneck', memories=memories, pictures=pictures)
  variables = student.init(jax.random.key(0), images, features)
  found = student.apply(variables, images, features)

  # By hand: channels side by side, a student of one picture, and its heads.
  wide = tuple(
    jnp.stack(
      [
        jnp.concatenate([x[pictures * i + m] for m in range(pictures)], axis=-1)
        for i in range(objects)
      ]
    )
    for x in features
  )
  alone = dict(variables['params'])
  heads = {k: alone.pop(f'head_stage{k}') for k in (1, 2, 3)}
  of_one = ReverseDistiller('tiny_bottleneck', memories=memories)
  stages = of_one.apply(variables | {'params': alone}, images, wide).features
  for k, x in stages.items():
    width = arch.channels(k)
    kernel, bias = heads[k]['kernel'][0, 0], heads[k]['bias']
    for i in range(objects):
      for m in range(pictures):
        own = slice(m * width, (m + 1) * width)
        expected = x[i] @ kernel[:, own] + bias[own]
        np.testing.assert_allclose(
          found.features[k][pictures * i + m], expected, rtol=1e-4, atol=1e-5
        )
