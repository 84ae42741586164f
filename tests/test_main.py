"""The command line in processes of their own: errors, exit codes, kill -9."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_runs import tiny_of

ROOT = Path(__file__).parents[1]
ONE_DEVICE = os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'}


def start(*arguments, module='memkd_jax.main'):
  return subprocess.Popen(
    [sys.executable, '-m', module, *arguments],
    cwd=ROOT,
    env=ONE_DEVICE | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*arguments, module='memkd_jax.main', timeout=300):
  process = start(*arguments, module=module)
  out, err = process.communicate(timeout=timeout)
  return process.returncode, out, err


def flags_of(config, workdir):
  return [
    f'--config=configs/folder.py:{config.method.name}',
    f'--workdir={workdir}',
    *(
      f'--config.{section}.{name}={value}'
      for section in ('data', 'model', 'train', 'eval')
      for name, value in config[section].items()
      if name != 'dataset'
    ),
  ]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.data.dir={tmp}/gone'], 'There is no data folder {tmp}/gone. Get MVTec AD from'),
    (['--config.data.categories=battle'], 'battle; known are bottle, cable'),
    (
      [
        '--config.model.backbone=resnet18',
        '--config.model.teacher_weights={tmp}/x.safetensors',
      ],
      'There is no teacher at {tmp}/x.safetensors; make it with '
      '`memkd weights --arch=resnet18 --out={tmp}/x.safetensors`.',
    ),
    (['--config.train.epoch=3'], 'has no field \'epoch\' Did you mean "epochs"'),
    (['--config.modle.backbone=x'], 'has no field \'modle\' Did you mean "model"'),
    (['--config=configs/gone.py'], '--config cannot be loaded'),
    (['--config=README.md'], '--config cannot be loaded'),
    (['--config=configs'], '--config cannot be loaded'),
    (['--config=gone'], 'of that name: best, btad, compare, dagm, demo, eyecandies,'),
    (
      ['--config=configs/mvtec.py:foo'],
      '--config.method.name=foo: give a value that is one of',
    ),
    (['--config=ablations/kd:rd'], 'Error whilst parsing config file: TypeError'),
    (['--config.train.epochs=abc'], 'flag --config.train.epochs=abc: invalid literal'),
    (['--mode=test'], 'flag --mode=test: value should be one of <train|evaluate>'),
    (['--dump-map'], 'there is no flag --dump-map; did you mean --dump-maps?'),
    (['--process-count=x'], "argument --process-count: invalid int value: 'x'"),
    (['bottle'], "unexpected argument 'bottle'"),
    (['--coordinator=auto'], '; name it with --coordinator=HOST:PORT, --process-count and'),
    (['--config.parallel.axis=x'], 'parallel.axis=x: give a value that is one of batch, cat'),
    (['--mode=evaluate'], '{tmp}/run holds no run to evaluate'),
    (['--workdir=ftp://bucket/run'], 'ftp://bucket/run: give a local folder, or a place in'),
    (
      ['--config.model.stages=()'],
      '--config.model.stages=(): give a value that names at least',
    ),
  ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, message):
  (tmp_path / 'data' / 'bottle').mkdir(parents=True)
  flags = [
    '--config=configs/mvtec.py',
    f'--config.data.dir={tmp_path}/data',
    f'--workdir={tmp_path}/run',
    *(a.format(tmp=tmp_path) for a in arguments),
  ]
  code, out, err = run(*flags)
  assert code == 1
  assert out == ''
  assert message.format(tmp=tmp_path) in err
  assert len(err.strip().splitlines()) == 1
  assert not (tmp_path / 'run').exists()


def test_a_signal_has_an_exit_code_of_its_own(tmp_path):
  program = (
    'import signal, sys\n'
    'from memkd_jax import main, run\n'
    'run.run_config = lambda *_: signal.raise_signal(signal.SIGTERM)\n'
    'sys.exit(main.main())\n'
  )
  process = subprocess.run(
    [sys.executable, '-c', program, f'--workdir={tmp_path}'],
    env=ONE_DEVICE | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert process.returncode == 75
  assert process.stderr == '\nmemkd_jax: stopped by SIGTERM; the same command resumes.\n'


# CFA is the quickest of those that train by descent; what is killed is the loop of all.
@pytest.mark.parametrize('method', ['cfa', pytest.param('memkd', marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_parameters(
  method, tiny_config, tmp_path, make_category
):
  make_category(tmp_path / 'data')
  steps = {'train.epochs': 40, 'train.checkpoint_steps': 4, 'train.log_steps': 1}
  config = tiny_of(method, tiny_config, **steps, **{'train.batch_size': 8})
  whole = flags_of(config, tmp_path / 'whole')
  code, out, err = run(*whole)
  assert code == 0, err
  assert 'THESE FIGURES MEAN NOTHING' in out
  assert out.endswith(f'Report: {tmp_path / "whole" / "report.html"}\n')

  killed = flags_of(config, tmp_path / 'killed')
  process = start(*killed)
  log = tmp_path / 'killed' / 'bolt' / 'seed_0' / 'metrics.jsonl'
  deadline = time.monotonic() + 300
  try:
    while not (log.exists() and log.read_text().count('\n') >= 11):
      assert process.poll() is None, process.stderr.read()
      assert time.monotonic() < deadline
      time.sleep(0.01)
  finally:
    process.kill()
  process.wait()
  process.stdout.close()
  process.stderr.close()
  assert not (tmp_path / 'killed' / 'results.json').exists()
  before = log.read_text().splitlines()

  code, _, err = run(*killed)
  assert code == 0, err
  results = [
    json.loads((tmp_path / n / 'results.json').read_text())
    | {'environment': None, 'costs': None}
    for n in ('whole', 'killed')
  ]
  assert results[0] == results[1]
  steps = [json.loads(line)['step'] for line in log.read_text().splitlines()]
  assert steps == list(range(1, 51))
  # It resumed and did not start anew: the first lines, with their speeds, are
  # those of the killed process. At most one save was under way.
  kept = [a == b for a, b in zip(before, log.read_text().splitlines(), strict=False)]
  assert sum(kept) >= 4
  assert kept == sorted(kept, reverse=True)

  whole_model, killed_model = (
    (tmp_path / name / 'bolt' / 'seed_0' / 'model.safetensors').read_bytes()
    for name in ('whole', 'killed')
  )
  assert whole_model == killed_model

  # The same folder with another config is refused; a failed category is exit code 1.
  code, _, err = run(*killed, '--config.train.learning_rate=2.0')
  assert code == 1
  assert f'train.learning_rate is {config.train.learning_rate} there and 2.0 now' in err
  (tmp_path / 'data' / 'bolt' / 'test' / 'good' / '000.png').write_bytes(b'')
  code, out, _ = run(*killed, '--mode=evaluate')
  assert code == 1
  assert 'test/good/000.png is not a readable image' in out
