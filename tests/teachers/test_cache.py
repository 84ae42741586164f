"""Where the teacher of a run comes from when nobody says so."""

import multiprocessing
import os
import shlex
import stat
import threading

import numpy as np
import pytest
from safetensors.numpy import save
from weights_server import serving

from memkd_jax import config as base
from memkd_jax.commands import weights as command
from memkd_jax.errors import UserError
from memkd_jax.teachers import cache, conversion, weights

ARCH = 'tiny_basic'


@pytest.fixture
def state(rng, make_state_dict):
  return make_state_dict(ARCH, rng)


@pytest.fixture
def server(monkeypatch, state, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)
  with serving(monkeypatch, ARCH, save(state)) as server:
    yield server


@pytest.fixture
def folder(tmp_path):
  return tmp_path / 'cache' / 'memkd_jax' / 'teachers'


def visible(folder):
  return sorted(p.name for p in folder.iterdir() if p.name != '.lock')


def test_the_name_is_the_configs():
  assert cache.AUTO == base.AUTO_TEACHER
  assert base.FIELDS[[f.name for f in base.FIELDS].index('model.teacher_weights')].default == (
    cache.AUTO
  )


def test_what_is_named_stays(server):
  for source in ('random', '/some/file'):
    assert cache.locate(source, ARCH) == source
  assert server.requests == []


def test_the_first_run_downloads_and_folds(server, folder, state, tmp_path):
  server.redirects = True
  path = cache.locate('auto', ARCH)
  assert path == str(folder / f'{ARCH}.safetensors')
  assert visible(folder) == [f'{ARCH}.safetensors']
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  _, params = weights.load(path, ARCH)
  expected = conversion.fold(state, conversion.ARCHITECTURES[ARCH], '')
  for name, tensor in weights.flatten_dict(params, sep='/').items():
    np.testing.assert_array_equal(tensor, expected[name])
  requests = len(server.requests)
  assert cache.locate('auto', ARCH) == path
  assert len(server.requests) == requests


def test_a_file_below_the_working_directory_comes_first(server, tmp_path):
  own = tmp_path / 'weights' / f'{ARCH}.safetensors'
  weights.save_teacher(own, ARCH, weights.random_teacher(ARCH), {})
  assert cache.locate('auto', ARCH) == str(own)
  assert server.requests == []


def test_the_cache_is_below_the_home_by_default(monkeypatch, tmp_path):
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert cache.folder() == tmp_path / '.cache' / 'memkd_jax' / 'teachers'


def test_a_network_that_is_not_known(server):
  with pytest.raises(UserError, match='no ImageNet weights of tiny_bottleneck are known'):
    cache.locate('auto', 'tiny_bottleneck')


def test_a_folder_that_cannot_be_used(server, tmp_path, state, monkeypatch):
  (tmp_path / 'cache').write_text('')
  with pytest.raises(UserError, match=r'cannot be kept in .*XDG_CACHE_HOME') as error:
    cache.locate('auto', ARCH)
  follow(str(error.value), monkeypatch)
  assert cache.locate('auto', ARCH) == str(tmp_path / 'weights' / f'{ARCH}.safetensors')


def follow(sentence, monkeypatch):
  """Does what a sentence says between backquotes."""
  monkeypatch.setattr(command, 'BACKBONES', (*base.BACKBONES, ARCH))
  program, name, *arguments = shlex.split(sentence.split('`')[1])
  assert (program, name) == ('memkd', 'weights')
  assert command.main(arguments) == 0


def test_offline_the_remedy_makes_what_the_next_run_takes(server, folder, state, monkeypatch):
  monkeypatch.setenv('MEMKD_WEIGHTS_URL', 'http://127.0.0.1:1')
  with pytest.raises(UserError, match='could not be downloaded') as error:
    cache.locate('auto', ARCH)
  sentence = str(error.value)
  assert f'{ARCH}.tv_in1k/resolve/main/model.safetensors' in sentence
  saved = sentence.split('save it as ')[1].split(' and run')[0]
  with open(saved, 'wb') as file:
    file.write(server.content)
  follow(sentence, monkeypatch)
  assert cache.locate('auto', ARCH) == str(folder / f'{ARCH}.safetensors')
  assert visible(folder) == [f'{ARCH}.safetensors', f'{ARCH}.tv_in1k.safetensors']
  assert server.requests == []


def test_an_interrupted_conversion_leaves_nothing_half(server, folder, monkeypatch):
  def interrupted(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(weights, 'save', interrupted)
    with pytest.raises(KeyboardInterrupt):
      cache.locate('auto', ARCH)
  assert visible(folder) == [f'{ARCH}.tv_in1k.safetensors']
  (folder / '.memkd_jax-killed.safetensors').write_bytes(b'half')
  requests = len(server.requests)
  cache.locate('auto', ARCH)
  assert visible(folder) == [f'{ARCH}.safetensors']
  assert len(server.requests) == requests  # what had arrived was used


def test_of_several_at_once_one_downloads(server, folder, capfd):
  """Threads here; the lock is the kernel's, and knows open files, not processes."""
  found = []
  threads = [
    threading.Thread(target=lambda: found.append(cache.locate('auto', ARCH))) for _ in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [str(folder / f'{ARCH}.safetensors')] * 4
  assert len(server.requests) == 1
  assert visible(folder) == [f'{ARCH}.safetensors']


def test_another_process_is_waited_for(server, folder, capfd):
  context = multiprocessing.get_context('spawn')
  ready, go = context.Event(), context.Event()
  folder.mkdir(parents=True)
  holder = context.Process(target=_hold, args=(folder, ready, go))
  holder.start()
  assert ready.wait(60)
  timer = threading.Timer(0.5, go.set)
  timer.start()
  cache.locate('auto', ARCH)
  holder.join()
  assert go.is_set()
  assert f'waiting for another process that is at work in {folder}' in capfd.readouterr().out


def _hold(folder, ready, go):
  from memkd_jax.files import lock

  with lock.in_turn(folder):
    ready.set()
    go.wait(60)
    assert os.listdir(folder) == ['.lock']
