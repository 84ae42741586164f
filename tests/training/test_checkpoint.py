import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.digest import digest
from memkd_jax.training import checkpoint
from memkd_jax.training.checkpoint import Checkpoints, discard


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


def test_what_was_saved_is_the_newest_at_once(tmp_path, state):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {'images': 3})
    assert checkpoints.latest_step() == 1
    assert checkpoints.read_metadata() == {'images': 3}
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(state), state)
    with pytest.raises(ValueError, match='step 1 is not newer than 1'):
      checkpoints.save(1, state, {'images': 3})


def test_two_are_kept(tmp_path, state):
  save(tmp_path, state, 1, 2, 5, 6)
  assert sorted(os.listdir(tmp_path)) == ['5', '6']


def test_a_checkpoint_of_another_model_is_named(tmp_path, state):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {'images': 3})
  others = {
    'params/(keys|values)': {'values': np.zeros((4, 5), np.float32)},
    'params/keys': {'keys': np.zeros((4, 6), np.float32)},
    'params/keys ': {'keys': np.zeros((4, 5), np.float16)},
    'params/more': state['params'] | {'more': np.zeros(1, np.float32)},
  }
  with Checkpoints(tmp_path) as checkpoints:
    for name, params in others.items():
      message = rf'The checkpoint .*1 cannot be restored \(.* another {name.strip()}\)'
      with pytest.raises(UserError, match=message):
        checkpoints.restore({**state, 'params': params})


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
def test_the_newest_good_one_is_used(tmp_path, state, capfd, damage):
  whole, used = tmp_path / 'whole', {}
  save(whole, state, 1, 2)
  for path in [p for p in (whole / '2').rglob('*') if p.is_file()]:
    folder, which = tmp_path / str(len(used)), path.relative_to(whole / '2').parts[0]
    shutil.copytree(whole, folder)
    damage(folder / path.relative_to(whole))
    before = sorted(folder.rglob('*'))
    capfd.readouterr()
    step = latest(folder, state)  # 2 where orbax does without that file
    used[path] = which, step
    output = capfd.readouterr()
    assert output.err == ''
    if step == 1:
      (line,) = output.out.splitlines()
      assert line.startswith(
        f'Note: not all checkpoints in {folder} can be used (step 2: its {which} '
      )
      assert line.endswith(': the checkpoint of step 1 is used.')
    else:
      assert output.out == ''
    assert sorted(folder.rglob('*')) == before  # reading removes nothing

    save(folder, state, step + 1)  # as training does, which goes on from there
    assert latest(folder, state) == step + 1
  assert {('state', 1), ('metadata', 1)} <= set(used.values())


def test_no_flipped_bit_of_the_metadata_is_overlooked(tmp_path, state):
  save(tmp_path, state, 1)
  path = tmp_path / '1' / 'metadata' / 'metadata'
  content = path.read_bytes()
  for i, byte in enumerate(content):
    path.write_bytes(content[:i] + bytes([byte ^ 1 << i % 8]) + content[i + 1 :])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match='no intact'):
      checkpoints.latest_step()


def test_a_state_that_orbax_reads_is_still_verified(tmp_path, state, capsys):
  save(tmp_path, state, 1, 2, 3)
  # Each whole for itself.
  shutil.rmtree(tmp_path / '3' / 'state')
  shutil.copytree(tmp_path / '2' / 'state', tmp_path / '3' / 'state')
  capsys.readouterr()
  assert latest(tmp_path, state) == 2
  assert 'step 3: its state differs from what was written' in capsys.readouterr().out


def test_a_checkpoint_of_a_later_format_is_not_taken_for_damaged(tmp_path, state, monkeypatch):
  save(tmp_path, state, 1)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, 'FORMAT', 2)
    save(tmp_path, state, 2)
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(UserError, match=r'2 was written by a newer memkd_jax .*format 2.*knows 1'),
  ):
    checkpoints.latest_step()
  assert (tmp_path / '2').exists()


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(
  tmp_path, state, monkeypatch
):
  save(tmp_path, state, 1, 2)

  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, 'Permission denied')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.ocp.CheckpointManager, 'restore', refuse)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(PermissionError) as error:
      checkpoints.latest_step()
  assert error.value.filename == str(tmp_path)
  assert latest(tmp_path, state) == 2


def test_where_none_is_good_there_is_one_sentence(tmp_path, state):
  save(tmp_path, state, 1, 2)
  for step in (1, 2):
    for path in (tmp_path / str(step)).rglob('*'):
      if path.is_file() and path.stat().st_size:
        path.write_bytes(b'broken')
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as error:
    checkpoints.restore(state)
  assert str(error.value) == (
    f'There is no intact checkpoint in {tmp_path} (step 2: its metadata cannot be read; '
    'step 1: its metadata cannot be read); remove that folder to train again.'
  )


def test_one_that_was_never_finished_is_ignored_and_replaced(tmp_path, state, capsys):
  save(tmp_path, state, 1)
  shutil.copytree(tmp_path / '1', tmp_path / '2.orbax-checkpoint-tmp')
  capsys.readouterr()
  assert latest(tmp_path, state) == 1
  assert capsys.readouterr() == ('', '')
  save(tmp_path, state, 2)
  assert latest(tmp_path, state) == 2
  assert sorted(os.listdir(tmp_path)) == ['1', '2']


def test_a_write_that_fails_is_reported_and_the_older_ones_stay(tmp_path, state, monkeypatch):
  save(tmp_path, state, 1)

  def fail(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(os, 'rename', fail)  # by which a checkpoint gets its name
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
  content = json.loads((small_disk / str(good) / 'metadata' / 'metadata').read_text())
  assert content['format'] == checkpoint.FORMAT
  assert content['metadata'] == {'images': good}
  assert content['sha256'] == digest(content)


def test_discarded_checkpoints_are_gone(tmp_path, state):
  folder = tmp_path / 'checkpoints'
  discard(folder)  # there are none
  save(folder, state, 1, 2)
  discard(folder)
  assert os.listdir(tmp_path) == []


def test_what_a_kill_left_of_discarded_checkpoints_is_none(tmp_path, state, monkeypatch):
  folder = tmp_path / 'checkpoints'
  save(folder, state, 1, 2)

  def killed(path):
    (path / '2' / 'metadata' / 'metadata').unlink()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', killed)
    with pytest.raises(KeyboardInterrupt):
      discard(folder)
  assert not folder.exists()
  assert len(os.listdir(tmp_path)) == 1
  with Checkpoints(folder) as checkpoints:
    assert checkpoints.latest_step() is None
  atomic.remove_orphans([tmp_path])
  assert os.listdir(tmp_path) == ['checkpoints']


def test_the_next_api_of_orbax_reads_them(tmp_path, state):
  """Both items, by their names; it is experimental, and another release may lack it."""
  name = 'orbax.checkpoint.experimental.v1'
  v1 = pytest.importorskip(name, reason=f'this orbax-checkpoint has no {name}')
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(7, state, {'images': 3})
  assert v1.is_orbax_checkpoint(tmp_path / '7')
  found = v1.load_checkpointables(tmp_path / '7')
  assert sorted(found) == ['metadata', 'state']
  assert found['metadata']['metadata'] == {'images': 3}
  assert found['metadata']['format'] == checkpoint.FORMAT
  expected = checkpoint._by_name(state)
  assert found['state'].keys() == expected.keys()
  for leaf, array in expected.items():
    np.testing.assert_array_equal(np.asarray(found['state'][leaf]), array)
    assert found['metadata']['arrays'][leaf] == [array.dtype.name, list(array.shape)]
  with v1.training.Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.latest.step == 7
    assert sorted(checkpointer.load_checkpointables(7)) == ['metadata', 'state']
