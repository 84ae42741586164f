"""A bucket, the lease on a place in it, and the folder mirrored there, on real servers."""

import asyncio
import json
import os
import re
import shutil
import threading
import time
import types
from pathlib import Path
from urllib.parse import unquote

import bucket_servers
import pytest

from memkd_jax.errors import UserError, explain
from memkd_jax.files import model
from memkd_jax.files.bucket import Bucket, BucketError, Object
from memkd_jax.runtime import interrupt
from memkd_jax.workdir import lease as lease_module
from memkd_jax.workdir import mirror as mirror_module
from memkd_jax.workdir.lease import FOLDER, Lease
from memkd_jax.workdir.mirror import copy_of_models, opened

pytestmark = pytest.mark.newest


@pytest.fixture(scope='module', params=bucket_servers.PROTOCOLS)
def running(request):
  if reason := bucket_servers.missing(request.param):
    pytest.skip(reason)
  with bucket_servers.started(request.param) as service:
    yield service


@pytest.fixture
def service(running, monkeypatch, tmp_path):
  """A server that fails nothing yet, and a machine with an empty cache."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(mirror_module, '_EVERY', 0.05)
  monkeypatch.setattr(mirror_module, '_AT_THE_END', 3.0)
  monkeypatch.setattr(lease_module, 'TERM', 1.0)
  monkeypatch.setattr(lease_module, '_GLANCE', 0.1)
  running.fault = lambda method, path, number: None
  if running.protocol == 'gs':  # whose client tries six times by itself, for half a minute
    quick = types.SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 100))
    monkeypatch.setattr('gcsfs.retry.asyncio', quick)
  return running


@pytest.fixture
def url(service, request):
  kind = re.sub(r'\W', '-', request.node.callspec.id)
  return service.url(f'runs/{kind}-{request.node.originalname}')


def other_machine(monkeypatch, tmp_path, name='other'):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / name))


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def write(root, name, text):
  (root / name).parent.mkdir(parents=True, exist_ok=True)
  (root / name).write_text(text)


# What a bucket is.


def test_objects_are_written_found_read_and_removed(url, tmp_path):
  bucket = Bucket(url)
  assert bucket.find() == {}
  bucket.write('a/b.json', b'12345')
  (tmp_path / 'file').write_bytes(b'678')
  assert bucket.upload([('c', tmp_path / 'file'), ('gone', tmp_path / 'none')]) == {'c'}
  assert {name: found.size for name, found in bucket.find().items()} == {'a/b.json': 5, 'c': 3}
  assert list(bucket.find('a/')) == ['a/b.json']
  assert bucket.read('a/b.json') == b'12345'
  assert bucket.read('none') is None
  bucket.download([('c', tmp_path / 'copy')])
  assert (tmp_path / 'copy').read_bytes() == b'678'
  bucket.remove(['c', 'none'])
  assert list(bucket.find()) == ['a/b.json']


def test_another_content_has_another_tag(url):
  bucket = Bucket(url)
  bucket.write('a', b'1')
  before = bucket.find()['a']
  bucket.write('a', b'2')
  assert bucket.find()['a'] != before


def test_of_many_that_create_an_object_one_succeeds(url):
  won = []

  def create(number):
    if Bucket(url).create('only', str(number).encode()):
      won.append(number)

  threads = [threading.Thread(target=create, args=(n,)) for n in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(won) == 1
  assert Bucket(url).read('only') == str(won[0]).encode()


@pytest.mark.parametrize('kind', ['refuse', 'cut', 'lose'])
def test_requests_that_fail_are_repeated(service, url, kind):
  bucket = Bucket(url)
  first = len(service.requests)
  service.fault = lambda method, path, number: kind if number - first < 2 else None
  assert bucket.create('new', b'own')  # also where the answer alone was lost
  assert bucket.read('new') == b'own'
  assert not bucket.create('new', b'of another')


def test_who_finds_no_answer_is_told_so(service, url):
  service.fault = lambda *_: 'cut'
  with pytest.raises(BucketError, match='cannot be reached'):
    Bucket(url, patience=0.1).read('a')


def test_a_bucket_that_is_not_there_is_named(service):
  nowhere = f'{service.protocol}://no-such-bucket/run'
  with pytest.raises(UserError, match='there is no such bucket; make it'), opened(nowhere):
    pass


@pytest.mark.parametrize('place', ['ftp://a/b', 'gs://', '://x', 'x'])
def test_other_urls_are_refused(place):
  with pytest.raises(UserError, match='give a local folder, or a place in a bucket'):
    Bucket(place)


# Who may write.


def test_a_lease_keeps_others_out_while_it_is_renewed(url, monkeypatch):
  # Whoever waits leaves at the first renewal; a busy machine must not end the term before it.
  monkeypatch.setattr(lease_module, 'TERM', 30.0)
  held = Lease(Bucket(url), 'a')
  held.acquire()
  stop = threading.Event()

  def renew():
    while not stop.wait(0.2):
      held.renew()

  thread = threading.Thread(target=renew)
  thread.start()
  try:
    with pytest.raises(UserError, match=r'is in use by process \d+ on'):
      Lease(Bucket(url), 'b', lambda sentence: None).acquire()
  finally:
    stop.set()
    thread.join()
  assert not held.is_lost()


def test_a_lease_that_has_ended_is_given_at_once(url):
  first, second = Lease(Bucket(url), 'a'), Lease(Bucket(url), 'b', pytest.fail)
  first.acquire()
  first.end()
  second.acquire()
  assert first.is_lost()
  assert not second.is_lost()
  assert list(Bucket(url).find(FOLDER)) == [f'{FOLDER}{second.number:08d}.json']


def test_a_lease_that_nobody_renews_is_taken_over(url):
  dead, said = Lease(Bucket(url), 'a'), []
  dead.acquire()
  began = time.monotonic()
  Lease(Bucket(url), 'b', said.append).acquire()
  assert time.monotonic() - began >= lease_module.TERM
  assert 'was in use (by process' in said[0]
  dead.renew()  # it was not dead: that changes nothing for its successor
  assert dead.is_lost()


def test_of_many_that_take_over_one_succeeds(url):
  Lease(Bucket(url), 'dead').acquire()
  won, lost = [], []

  def take(number):
    lease = Lease(Bucket(url), f'{number}', lambda sentence: None)
    try:
      lease.acquire()
      won.append(lease)
    except UserError as error:
      lost.append(error)

  threads = [threading.Thread(target=take, args=(n,)) for n in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  still = [lease for lease in won if not lease.is_lost()]
  assert len(still) == 1


def test_who_comes_late_with_an_old_number_gets_none(url, monkeypatch):
  late = Lease(Bucket(url), 'late', lambda sentence: None)
  seen = late.look()
  for owner in ('a', 'b'):
    lease = Lease(Bucket(url), owner)
    lease.acquire()
    lease.end()
  looks = [seen]  # it had looked before the others came; then as things are
  look = Lease.look
  monkeypatch.setattr(Lease, 'look', lambda self: looks.pop() if looks else look(self))
  late.acquire()
  assert late.number == 3


# A folder and its place.


def test_what_is_written_lies_in_the_bucket_at_the_end(service, url, monkeypatch, tmp_path):
  with opened(url) as root:
    write(root, 'config.json', '{}')
    write(root, 'part/seed_0/model.safetensors', 'arrays')
    write(root, 'part/seed_0/model.json', 'facts')
    write(root, 'part/seed_0/metrics.jsonl', 'a line')
    write(root, '.lock', '')
    write(root, 'part/seed_0/.memkd_jax-123.json', 'half')
    write(root, 'part/seed_0/checkpoints/20.orbax-checkpoint-tmp/state', 'half')
  expected = {
    'config.json': b'{}',
    'part/seed_0/model.safetensors': b'arrays',
    'part/seed_0/model.json': b'facts',
    'part/seed_0/metrics.jsonl': b'a line',
  }
  other_machine(monkeypatch, tmp_path)
  with opened(url) as root:
    assert contents(root) == expected


def test_a_new_file_is_copied_while_the_run_goes_on(url):
  with opened(url) as root:
    write(root, 'part/seed_0/checkpoints/20/state', '20')
    until = time.monotonic() + 20
    while 'part/seed_0/checkpoints/20/state' not in Bucket(url).find():
      assert time.monotonic() < until
      time.sleep(0.05)


def test_what_a_new_file_replaces_is_removed_after_it(service, url, monkeypatch):
  with opened(url) as root:
    monkeypatch.setattr(mirror_module, '_EVERY', 1e9)
    checkpoint(root, 20)
    write(root, 'part/tiles/0/model.json', 'facts of a part')
  first = len(service.requests)
  with opened(url) as root:
    shutil.rmtree(root / 'part/checkpoints/20')
    shutil.rmtree(root / 'part/tiles')
    checkpoint(root, 40)
    write(root, 'part/model.safetensors', 'arrays')
    write(root, 'part/model.json', 'facts')
  changes = [path for method, path in service.requests[first:] if method not in ('GET', 'HEAD')]
  whole = '_CHECKPOINT_METADATA'
  wanted = ('40/state', f'40/{whole}', '20/state', f'20/{whole}')
  wanted += ('part/model.safetensors', 'part/model.json', 'tiles/0/model.json')
  order = [name for path in map(unquote, changes) for name in wanted if name in path]
  assert [set(order[:2]), set(order[2:4]), set(order[4:6]), set(order[6:])] == [
    {'40/state', 'part/model.safetensors'},
    {f'40/{whole}', 'part/model.json'},
    {f'20/{whole}', 'tiles/0/model.json'},
    {'20/state'},
  ]


def test_half_a_checkpoint_counts_as_none(url, monkeypatch, tmp_path):
  with opened(url) as root:
    write(root, 'part/checkpoints/20/state', 'the rest was never copied')
    checkpoint(root, 40)
  other_machine(monkeypatch, tmp_path)
  with opened(url) as root:
    assert os.listdir(root / 'part/checkpoints') == ['40']


def test_what_is_removed_in_the_bucket_leaves_no_empty_folder(url):
  with opened(url) as root:
    checkpoint(root, 20)
  Bucket(url).remove(Bucket(url).find('part/'))
  with opened(url) as root:
    assert os.listdir(root) == []


@pytest.mark.parametrize('slow', ['download', 'upload'])
def test_the_lease_is_renewed_in_the_first_copy_and_in_the_last(url, monkeypatch, slow):
  monkeypatch.setattr(mirror_module, 'RENEWAL', 0.1)
  monkeypatch.setattr(mirror_module, '_EVERY', 1e9)
  with opened(url) as root:
    write(root, 'config.json', '{}')
  shutil.rmtree(root)
  copy, renewals = getattr(Bucket, slow), []
  renew = Lease.renew

  def slowly(self, files):
    renewals.clear()
    time.sleep(2)
    return copy(self, files)

  monkeypatch.setattr(Bucket, slow, slowly)
  monkeypatch.setattr(Lease, 'renew', lambda self: renewals.append(renew(self)))
  with opened(url) as root:
    write(root, 'config.json', '{"a": 1}')
    seen = len(renewals)
  assert (seen if slow == 'download' else len(renewals)) >= 3


def checkpoint(root, step):
  write(root, f'part/checkpoints/{step}/state', f'{step}')
  write(root, f'part/checkpoints/{step}/_CHECKPOINT_METADATA', 'all is there')


def test_logs_alone_are_not_copied_before_the_end(url):
  with opened(url) as root:
    write(root, 'part/metrics.jsonl', 'one')
    time.sleep(0.5)
    assert list(Bucket(url).find('part/')) == []
  assert Bucket(url).read('part/metrics.jsonl') == b'one'


def test_an_unchanged_place_is_not_copied_again(service, url, capsys):
  with opened(url) as root:
    write(root, 'config.json', '{}')
  capsys.readouterr()
  first = len(service.requests)
  with opened(url) as root:
    assert contents(root) == {'config.json': b'{}'}
  assert 'Copying' not in capsys.readouterr().out
  assert not any('config.json' in path for _, path in service.requests[first:])


def test_the_bucket_is_what_counts(url, tmp_path, monkeypatch):
  with opened(url) as root:
    write(root, 'config.json', '{}')
    write(root, 'part/result.json', '{}')
  Bucket(url).remove(['part/result.json'])  # as a message may have advised
  Bucket(url).write('config.json', b'{"a": 1}')
  with opened(url) as root:
    assert contents(root) == {'config.json': b'{"a": 1}'}


def test_the_same_command_here_copies_what_could_not_be_copied(service, url):
  with pytest.raises(UserError, match='The same command here copies it'), opened(url) as root:
    write(root, 'part/result.json', '{"done": 1}')
    service.fault = lambda *_: 'cut'
  service.fault = lambda *_: None
  assert 'part/result.json' not in Bucket(url).find()
  with opened(url) as root:
    assert contents(root) == {'part/result.json': b'{"done": 1}'}
  assert Bucket(url).read('part/result.json') == b'{"done": 1}'


def test_a_cut_in_between_is_noted_and_made_up_for(service, url, capsys, monkeypatch):
  monkeypatch.setattr('memkd_jax.files.bucket.PATIENCE', 0.1)
  with opened(url) as root:
    service.fault = lambda *_: 'cut'
    write(root, 'part/seed_0/checkpoints/20/state', '20')
    time.sleep(4)
    service.fault = lambda *_: None
  assert 'cannot be reached' in (said := capsys.readouterr().out)
  assert said.count('the run goes on, and copies later') == 1
  assert Bucket(url).read('part/seed_0/checkpoints/20/state') == b'20'


def test_another_machine_takes_over_and_the_first_one_writes_no_more(
  url, monkeypatch, tmp_path
):
  monkeypatch.setattr(mirror_module, 'RENEWAL', 1e9)  # as of a machine that was asleep
  with pytest.raises(UserError, match='taken over by another process'), opened(url) as root:
    write(root, 'config.json', '{}')
    other_machine(monkeypatch, tmp_path)
    with opened(url) as second:
      write(second, 'config.json', '{"by": 2}')
    for number in range(9):  # also before this one has asked for its lease
      write(root, 'config.json', f'{{"by": 1, "again": {number}}}')
      time.sleep(0.1)
  assert Bucket(url).read('config.json') == b'{"by": 2}'
  interrupt.raise_if_asked()  # what follows in this process is not ended as well


def test_two_processes_of_a_machine_keep_each_other_out(url):
  with opened(url), pytest.raises(UserError) as caught, opened(url):
    pass
  assert 'is in use by process' in explain(caught.value)
  assert url in explain(caught.value)


def test_models_alone_are_copied_for_reading(url, capsys):
  with opened(url) as root:
    write(root, 'config.json', '{}')
    write(root, f'part/seed_0/{model.FACTS}', 'facts')
    write(root, f'part/seed_0/{model.TENSORS}', 'arrays')
    write(root, 'part/seed_0/figure.png', 'picture')
    read = copy_of_models(url)  # also while a run holds the place: what is there by now
  read = copy_of_models(url)
  assert sorted(contents(read)) == [
    'config.json',
    f'part/seed_0/{model.FACTS}',
    f'part/seed_0/{model.TENSORS}',
  ]
  Bucket(url).remove(['config.json'])
  assert 'config.json' not in contents(copy_of_models(url))


@pytest.mark.parametrize('name', ['../../evil', '/evil', 'a//evil', './evil'])
def test_no_object_can_be_written_elsewhere(url, monkeypatch, name):
  find, evil = Bucket.find, {name: Object(1, 'tag')}
  monkeypatch.setattr(Bucket, 'find', lambda self, below='': find(self, below) | evil)
  with pytest.raises(UserError, match='evil; remove it'), opened(url):
    pass


def test_a_damaged_record_of_what_was_copied_costs_a_copy(url, tmp_path):
  with opened(url) as root:
    write(root, 'config.json', '{}')
  for text in ('', '{', '[]', '{"lease": "x", "files": 3}', json.dumps({'files': {'a': []}})):
    (root.parent / 'mirror.json').write_text(text)
    with opened(url) as again:
      assert contents(again) == {'config.json': b'{}'}


def test_a_local_folder_stays_what_it_is(tmp_path):
  with opened(tmp_path) as root:
    assert root == tmp_path
  assert copy_of_models(str(tmp_path)) == Path(tmp_path)
