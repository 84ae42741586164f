import errno
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from memkd_jax.errors import UserError
from memkd_jax.training import manifest
from memkd_jax.training.checkpoint import Checkpoints


@pytest.fixture
def state(rng):
  return {
    'step': np.int32(3),
    'params': {'keys': rng.normal(size=(4, 5)).astype(np.float32)},
    'opt_state': (np.zeros(2, np.float64), ()),
  }


def test_the_newest_comes_back_bit_for_bit(tmp_path, state):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() is None
    checkpoints.save(1, state, {'images': 3})
    newer = jax.tree.map(lambda x: x + 1, state)
    checkpoints.save(2, newer, {'images': 4})
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 2
    assert checkpoints.read_metadata() == {'images': 4}
    restored = checkpoints.restore(state)
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(newer), strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == b.dtype


def test_a_checkpoint_of_another_model_is_named(tmp_path, state):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {'images': 3})
  other = {**state, 'params': {'values': np.zeros((4, 5), np.float32)}}
  misshapen = {**state, 'params': {'keys': np.zeros((4, 6), np.float32)}}
  with Checkpoints(tmp_path) as checkpoints:
    for like in (other, misshapen):
      with pytest.raises(UserError, match=r'The checkpoint .*1 cannot be restored'):
        checkpoints.restore(like)


def save(folder, state, *steps):
  """Saves states that differ by their step."""
  with Checkpoints(folder) as checkpoints:
    for step in steps:
      checkpoints.save(step, {**state, 'step': np.int32(step)}, {'images': step})


def latest(folder, state):
  """The step by the name of the checkpoint, by its state and by its metadata."""
  with Checkpoints(folder) as checkpoints:
    step = checkpoints.latest_step()
    assert checkpoints.restore(state)['step'] == step
    assert checkpoints.read_metadata() == {'images': step}
  return step


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
  path.unlink()


@pytest.mark.parametrize('damage', [flip, truncate, delete])
@pytest.mark.parametrize('which', ['largest', 'metadata/metadata', 'manifest.json'])
def test_the_newest_good_one_is_used(tmp_path, state, capsys, damage, which):
  save(tmp_path, state, 1, 2)
  path = tmp_path / '2' / which
  if which == 'largest':
    files = [p for p in (tmp_path / '2' / 'state').rglob('*') if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
  damage(path)
  before = sorted(tmp_path.rglob('*'))
  capsys.readouterr()
  assert latest(tmp_path, state) == 1
  output = capsys.readouterr()
  assert output.err == ''
  (line,) = output.out.splitlines()
  assert line.startswith(f'Note: not all checkpoints in {tmp_path} can be used (step 2: ')
  assert line.endswith(': the checkpoint of step 1 is used.')
  if (damage, which) == (delete, 'manifest.json'):
    assert 'step 2: it is incomplete' in line
  else:
    name = path.relative_to(tmp_path / '2').as_posix()
    assert f'step 2: {name} {"is missing" if damage is delete else ""}' in line
  assert sorted(tmp_path.rglob('*')) == before  # reading removes nothing

  save(tmp_path, state, 2)  # as training does, which goes on from step 1
  assert latest(tmp_path, state) == 2


def test_a_flipped_bit_of_a_manifest_is_damage_and_no_later_format(tmp_path):
  (tmp_path / 'a').write_text('a')
  manifest.write(tmp_path)
  assert manifest.find_damage(tmp_path) is None
  path = tmp_path / 'manifest.json'
  content = path.read_bytes()
  for i, byte in enumerate(content):
    path.write_bytes(content[:i] + bytes([byte ^ 1 << i % 8]) + content[i + 1 :])
    assert manifest.find_damage(tmp_path) is not None


def test_a_checkpoint_of_a_later_format_is_not_taken_for_damaged(tmp_path, state, monkeypatch):
  save(tmp_path, state, 1)
  with monkeypatch.context() as patch:
    patch.setattr(manifest, 'FORMAT', 2)
    save(tmp_path, state, 2)
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(UserError, match=r'2 was written by a newer memkd_jax .*format 2.*knows 1'),
  ):
    checkpoints.latest_step()
  assert (tmp_path / '2').exists()


def test_what_was_saved_before_there_were_manifests_is_used(tmp_path, state, capsys):
  with ocp.CheckpointManager(tmp_path) as manager:
    args = ocp.args.Composite(
      state=ocp.args.StandardSave({**state, 'step': np.int32(5)}),
      metadata=ocp.args.JsonSave({'images': 5}),
    )
    manager.save(5, args=args)
  capsys.readouterr()
  assert latest(tmp_path, state) == 5
  (line,) = capsys.readouterr().out.splitlines()
  assert 'was saved before checkpoints had manifests; it is used unverified' in line


def test_where_none_is_good_there_is_one_sentence(tmp_path, state):
  save(tmp_path, state, 1, 2)
  for step in (1, 2):
    for path in (tmp_path / str(step)).rglob('*'):
      if path.is_file() and path.stat().st_size:
        path.write_bytes(b'broken')
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as error:
    checkpoints.restore(state)
  assert str(error.value) == (
    f'There is no intact checkpoint in {tmp_path} (step 2: manifest.json cannot be read; '
    'step 1: manifest.json cannot be read); remove that folder to train again.'
  )


def test_one_that_was_never_finished_is_ignored_and_replaced(tmp_path, state, capsys):
  save(tmp_path, state, 1)
  (tmp_path / '1' / 'manifest.json').unlink()  # killed just before it was written
  (tmp_path / '2.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)  # in the midst of saving
  capsys.readouterr()
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() is None
    assert 'step 1: it is incomplete): there is no other.' in capsys.readouterr().out
    checkpoints.save(1, {**state, 'step': np.int32(1)}, {'images': 1})
    assert checkpoints.latest_step() is None or (tmp_path / '1' / 'manifest.json').exists()
  assert latest(tmp_path, state) == 1
  assert [path.name for path in tmp_path.iterdir()] == ['1']


def test_a_write_that_fails_is_reported_and_the_older_ones_stay(tmp_path, state, monkeypatch):
  save(tmp_path, state, 1)

  def fail(_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(manifest, 'write', fail)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state, {'images': 2})
    with pytest.raises(OSError) as error:
      checkpoints.wait()
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path))
    # An error that is under way already is the one to be told.
    with pytest.raises(RuntimeError), Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(3, state, {'images': 3})
      raise RuntimeError
    with pytest.raises(OSError), Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(3, state, {'images': 3})
  assert latest(tmp_path, state) == 1


def test_a_full_disk_leaves_the_older_ones(mount_disk, rng, capfd):
  small_disk = mount_disk(1000)

  def random_state(step):
    return {'step': np.int32(step), 'params': rng.normal(size=100_000).astype(np.float32)}

  with pytest.raises(OSError) as error, Checkpoints(small_disk) as checkpoints:
    for step in range(1, 5):  # two fit, a third does not
      good = step - 2
      checkpoints.save(step, random_state(step), {'images': step})
  assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(small_disk))
  assert good == 2
  assert capfd.readouterr() == ('', '')
  with Checkpoints(small_disk) as checkpoints:  # frees what was half written
    assert checkpoints.latest_step() == good
    assert checkpoints.restore(random_state(0))['step'] == good
  metadata = json.loads((small_disk / str(good) / 'metadata' / 'metadata').read_text())
  assert metadata == {'format': manifest.FORMAT, 'images': good}
