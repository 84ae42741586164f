"""Whole runs whose folder is a place in a bucket, on real servers of S3 and of GCS."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import bucket_servers
import pytest
from quick import QUICK
from test_scaling import FLAGS, ROOT, finish, free_port
from whole_runs import STEPS, assert_same, final_state, stop_after

import memkd_jax
from memkd_jax import calibrate, main, predict
from memkd_jax.errors import UserError
from memkd_jax.files import model
from memkd_jax.files.bucket import Bucket
from memkd_jax.methods import descent
from memkd_jax.run import run_config
from memkd_jax.workdir import copy_of_models

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]


@pytest.fixture(scope='module', params=bucket_servers.PROTOCOLS)
def service(request):
  if reason := bucket_servers.missing(request.param):
    pytest.skip(reason)
  with bucket_servers.started(request.param) as running:
    yield running


@pytest.fixture
def one_service(service):
  """Where it is the same code whatever the service, one is enough."""
  if service.protocol != 's3':
    pytest.skip('tested with s3')
  return service


@pytest.fixture
def machines(monkeypatch, tmp_path):
  """Moves on to another machine, which has nothing of what the last one had."""

  def move(name):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / name))

  move('first')
  return move


def test_a_run_in_a_bucket_is_used_on_other_machines(
  service, machines, tmp_path, make_category, capsys, monkeypatch
):
  make_category(tmp_path / 'data', 'bolt')
  make_category(tmp_path / 'data', 'nut')
  url = service.url('parts')
  flags = [*QUICK, f'--config.data.dir={tmp_path / "data"}', f'--workdir={url}']
  assert main.main(flags) == 0
  assert f'Report: {url}/report.html' in capsys.readouterr().out
  names = set(Bucket(url).find())
  assert {'report.html', 'results.json', 'bolt/seed_0/model.json'} < names
  assert not any('.lock' in name or '.memkd_jax-' in name for name in names)

  machines('second')
  image = tmp_path / 'data' / 'bolt' / 'test' / 'hole' / '000.png'
  image = image if image.exists() else next((tmp_path / 'data/bolt/test').rglob('*.png'))
  out = tmp_path / 'out'
  named = [f'--workdir={url}', '--category=bolt']
  assert predict.main([*named, f'--images={image}', f'--out={out}']) == 0
  here = memkd_jax.load(url, 'bolt')
  score = float((out / 'scores.csv').read_text().splitlines()[1].split(',')[1])
  assert here(image).scores[0] == pytest.approx(score, rel=1e-5)
  assert calibrate.main([*named, '--threshold=0.5']) == 0

  machines('third')
  assert memkd_jax.load(Path(url), 'bolt').threshold.value == 0.5  # with one slash
  capsys.readouterr()
  assert main.main(flags) == 0
  assert 'finished already' in capsys.readouterr().out

  assert predict.main([f'--workdir={url}', f'--images={image}', f'--out={out}']) == 1
  said = capsys.readouterr().err
  assert f'{url} holds models of bolt, nut' in said and str(tmp_path / 'third') not in said


def test_a_training_goes_on_on_another_machine_from_the_bucket_alone(
  one_service, machines, tmp_path, make_category, monkeypatch, make_config
):
  make_category(tmp_path / 'data')
  config = make_config(tmp_path / 'data')
  config.train.checkpoint_steps = 2
  config.train.keep_checkpoints = True
  run_config(config, tmp_path / 'whole')
  url = one_service.url('resumed')
  stop_after(monkeypatch, config, url, 3)
  shutil.rmtree(tmp_path / 'first')
  machines('second')
  order, calls = descent.batch_indices, []
  monkeypatch.setattr(descent, 'batch_indices', lambda *a: calls.append(a) or order(*a))
  run_config(config, url)
  assert len(calls) == STEPS - 2  # from the checkpoint, not from 0
  (home,) = (tmp_path / 'second/memkd_jax/workdirs').iterdir()
  states = [final_state(config, folder) for folder in (tmp_path / 'whole', home / 'folder')]
  assert_same(*states)


def test_a_training_goes_on_from_a_model_in_a_bucket(
  one_service, machines, tmp_path, make_category, capsys, make_config
):
  make_category(tmp_path / 'data')
  config = make_config(tmp_path / 'data')
  config.train.epochs = 1
  first, second = one_service.url('old'), one_service.url('new')
  run_config(config, first)
  machines('second')
  run_config(config, second, warm_start=first)
  told = json.loads(Bucket(second).read('config.json'))['warm_start']
  assert told == first
  with pytest.raises(UserError, match=f'--warm-start={first} is the folder of this run itself'):
    run_config(config, f'{first}/', warm_start=first)
  assert f'bolt goes on from {first}' in capsys.readouterr().out


def test_variants_of_an_ablation_lie_in_the_bucket(
  one_service, machines, tmp_path, make_category
):
  make_category(tmp_path / 'data')
  url = one_service.url('sweep')
  flags = [*QUICK, f'--config.data.dir={tmp_path / "data"}', f'--workdir={url}']
  variants = (('one', (('train.holdout', 0.0),)), ('two', (('train.holdout', 0.2),)))
  config = main.load_config('folder:knn', [flag for flag in flags[1:-1]])
  config.sweep.variants = variants
  from memkd_jax import sweep

  sweep.run_sweep(config, url)
  names = set(Bucket(url).find())
  assert {'sweep.json', 'one/results.json', 'two/bolt/seed_0/model.json'} < names
  machines('second')
  assert memkd_jax.load(f'{url}/two').category == 'bolt'


# A process that gives its lease up soon, so that a test need not wait for a minute.
_HASTY = """
import sys
from memkd_jax.workdir import lease, mirror
lease.TERM, mirror.RENEWAL, mirror._EVERY, lease._GLANCE = 4.0, 0.5, 0.2, 0.2
from memkd_jax import main
sys.exit(main.main(sys.argv[1:]))
"""


def start(flags, cache, devices=1, **environment):
  own = {
    'XDG_CACHE_HOME': str(cache),
    'XLA_FLAGS': f'{FLAGS}{devices}',
    'PYTHONPATH': str(ROOT),
  }
  return subprocess.Popen(
    [sys.executable, '-c', _HASTY, *map(str, flags)],
    cwd=ROOT,
    env=os.environ | own | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def flags_of(config, workdir):
  fields = [
    f'--config.{section}.{name}={value}'
    for section in ('data', 'model', 'train', 'eval')
    for name, value in config[section].items()
    if name != 'dataset'
  ]
  return ['--config=configs/folder.py', f'--workdir={workdir}', *fields]


def digest_of(workdir, category):
  folder = copy_of_models(workdir) / category / 'seed_0'
  return model.tensors_digest(model.read_facts(folder))


def promised(url):
  """What the bucket has: steps of checkpoints that are whole, and results."""
  names = Bucket(url).find()
  steps = [
    int(Path(name).parts[3])
    for name in names
    if '/checkpoints/' in name and name.endswith('_CHECKPOINT_METADATA')
  ]
  ends = {name for name in names if name.endswith(('result.json', 'model.json'))}
  return max(steps, default=0), ends


@pytest.mark.slow
def test_kills_and_cuts_at_random_moments_lose_nothing(
  service, machines, tmp_path, make_config, make_category
):
  """Twenty of them; about ten minutes for each service."""
  for name in ('bolt', 'nut'):
    make_category(tmp_path / 'data', name)
  config = make_config(tmp_path / 'data')
  config.train.epochs = 60
  config.train.checkpoint_steps = 2
  finish(start(flags_of(config, tmp_path / 'whole'), tmp_path / 'cache-0'))

  url = service.url('killed')
  chance = random.Random(0)
  cache, ends, kills, cuts, number = tmp_path / 'cache-1', set(), 0, 0, 1
  code = 1
  while kills + cuts < 20 or code:
    assert number < 60
    process = start(flags_of(config, url), cache)
    until = time.monotonic() + chance.uniform(2, 14)
    cut = chance.random() < 0.4
    while time.monotonic() < until and process.poll() is None:
      time.sleep(0.05)
    if process.poll() is None and kills + cuts < 20:
      if cut:  # all requests fail from here on, in their middle or in their answer
        service.fault = lambda method, path, n: 'lose' if n % 2 else 'cut'
        time.sleep(chance.uniform(0, 3))
        cuts += 1
      if not cut or chance.random() < 0.5:
        process.send_signal(signal.SIGKILL)
        kills += 1
    if cut:
      time.sleep(1)
    service.fault = lambda method, path, n: None
    output, _ = process.communicate(timeout=600)
    code = process.returncode
    assert code in (0, -signal.SIGKILL), output
    _, now = promised(url)
    assert ends <= now, 'a model or a result that was there is gone'
    ends = now
    if kills + cuts < 20 and code == 0:  # it was quicker than chance: begin another run
      url = service.url(f'killed-{number}')
      ends = set()
    if chance.random() < 0.5:  # goes on elsewhere, from the bucket alone
      number += 1
      shutil.rmtree(cache, ignore_errors=True)
      cache = tmp_path / f'cache-{number}'
  machines('reader')
  for category in ('bolt', 'nut'):
    assert digest_of(url, category) == digest_of(tmp_path / 'whole', category)
    result = json.loads(Bucket(url).read(f'{category}/seed_0/result.json'))
    whole = json.loads((tmp_path / f'whole/{category}/seed_0/result.json').read_text())
    assert result['metrics'] == whole['metrics']


@pytest.mark.slow
def test_two_machines_that_want_the_same_run_do_not_meet(
  service, machines, tmp_path, make_config, make_category
):
  """One minute: the second one is told so, and gets the place when the first one is killed."""
  make_category(tmp_path / 'data')
  config = make_config(tmp_path / 'data')
  config.train.epochs = 400
  url = service.url('two-machines')
  first = start(flags_of(config, url), tmp_path / 'a')
  deadline = time.monotonic() + 120
  while promised(url)[0] == 0:
    assert time.monotonic() < deadline and first.poll() is None
    time.sleep(0.2)
  refused = finish(start(flags_of(config, url), tmp_path / 'b'), 1)
  assert f'{url} is in use by process {first.pid} on' in refused
  first.kill()
  first.communicate()
  second = start(flags_of(config, url), tmp_path / 'b')
  finish(second)
  assert promised(url)[1] == {'bolt/seed_0/model.json', 'bolt/seed_0/result.json'}


@pytest.mark.slow
def test_two_processes_of_two_devices_write_to_a_bucket(
  service, machines, tmp_path, make_config, make_category
):
  """Two minutes: as one process with four devices in a local folder, and after SIGTERM."""
  make_category(tmp_path / 'data')
  config = make_config(tmp_path / 'data')
  config.train.epochs = 100
  config.model.dtype = 'float64'
  x64 = {'JAX_ENABLE_X64': '1'}
  finish(start(flags_of(config, tmp_path / 'one'), tmp_path / 'c', 4, **x64))
  url = service.url('two-processes')

  def both():
    join = [f'--coordinator=127.0.0.1:{free_port()}', '--process-count=2']
    return [
      start([*flags_of(config, url), *join, f'--process-id={i}'], tmp_path / f'h{i}', 2, **x64)
      for i in (0, 1)
    ]

  processes = both()
  (deadline, log) = (time.monotonic() + 200, tmp_path / 'h0')
  while not list(log.rglob('metrics.jsonl')):
    assert time.monotonic() < deadline
    time.sleep(0.1)
  processes[1].send_signal(signal.SIGTERM)
  for process in processes:
    finish(process, 75)
  assert promised(url)[0] > 0
  assert not list((tmp_path / 'h1').rglob('metrics.jsonl'))  # the second has no folder
  for process in both():
    finish(process)
  one = json.loads((tmp_path / 'one/bolt/seed_0/result.json').read_text())
  two = json.loads(Bucket(url).read('bolt/seed_0/result.json'))
  assert two['metrics'] == pytest.approx(one['metrics'], abs=1e-6)


def test_a_place_that_cannot_be_used_is_one_sentence(capsys):
  assert main.main([*QUICK, '--workdir=ftp://bucket/run']) == 1
  said = capsys.readouterr().err
  assert said.startswith('memkd_jax: ftp://bucket/run: give a local folder, or a place in a')
