"""Turns, ratios and sides of the benchmark, at tiny settings."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memkd_jax.errors import UserError

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'


@pytest.fixture(autouse=True)
def tools(monkeypatch):
  monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture
def images():
  return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


def recorded(log, name, seconds, fails_at=None):
  """A candidate of three items whose calls take `seconds`, by a clock of its own."""
  from turns import Candidate

  def times(calls):
    log.append((name, calls))
    if fails_at is not None and [n for n, _ in log].count(name) > fails_at:
      raise RuntimeError('no\n  compiler')
    return [seconds] * calls

  return Candidate('train', name, 3, times)


def test_turns_alternate_and_the_first_call_of_each_does_not_count():
  from turns import take_turns

  log = []
  turns = take_turns([recorded(log, 'a', 0.5), recorded(log, 'b', 0.1)], 2, seconds=1)
  once = [('a', 1), ('a', 2), ('b', 1), ('b', 10)]
  assert log == [('a', 1), ('a', 1), ('b', 1), ('b', 1), *once, *once]
  assert [turn.rate for turn in turns['train, a']] == pytest.approx([6, 6])
  assert [len(turn.times) for turn in turns['train, b']] == [10, 10]


@pytest.mark.parametrize('fails_at', [0, 3], ids=['at first', 'later'])
def test_who_fails_is_named_and_the_others_go_on(fails_at, capsys):
  from turns import take_turns

  log = []
  both = [recorded(log, 'a', 1, fails_at), recorded(log, 'b', 1)]
  turns = take_turns(both, 2, seconds=1)
  assert list(turns) == ['train, b'] and len(turns['train, b']) == 2
  assert capsys.readouterr().out == 'train, a is left out: no compiler\n'
  assert len([name for name, _ in log if name == 'a']) == fails_at + 1


def test_energy_is_that_of_the_calls_that_count():
  from turns import take_turns

  log = []

  def joules():  # 7 a call
    return 7.0 * sum(calls for _, calls in log)

  turns = take_turns([recorded(log, 'a', 0.5)], 1, seconds=2, energy=joules)
  assert turns['train, a'][0].joules == pytest.approx(7 / 3)


def test_queued_calls_are_waited_for_once():
  from turns import Queued, timed

  log = []
  queued = Queued(lambda: log.append('run'), lambda: log.append('wait'))
  assert len(timed(queued)(3)) == 1
  assert log == ['run', 'run', 'run', 'wait']
  assert len(timed(lambda: None)(3)) == 3


def test_figures_and_ratios_are_those_by_hand():
  import benchmark_report
  from turns import Candidate, Turn

  def candidate(work, side, **rest):
    return Candidate(work, side, 4, lambda calls: [], **rest)

  given = [
    candidate('train', 'ours, bfloat16', dtype='bfloat16', flop=8e9),
    candidate('one image', 'ours, bfloat16'),
    candidate('train', 'torch'),
    candidate('train', 'torch.compile'),
    candidate('one image', 'torch'),
  ]
  rates = {
    'train, ours, bfloat16': (10, 30, 20),
    'one image, ours, bfloat16': (6,),
    'train, torch': (8, 1, 100),
    'one image, torch': (2,),
  }
  turns = {
    name: [Turn(rate, [k / 1000 for k in range(101)], rate / 2) for rate in values]
    for name, values in rates.items()
  }
  peaks = {('JAX', 'float32'): 5e9, ('JAX', 'bfloat16'): 1e11, ('PyTorch', 'bfloat16'): 2e11}
  lines = benchmark_report.figures(given, turns, peaks, devices=2)
  assert [line['name'] for line in lines] == [
    'train, ours, bfloat16',
    'train, torch',
    'one image, ours, bfloat16',
    'one image, torch',
  ]
  ours, torch, one, _ = lines
  assert (ours['images_per_second'], torch['images_per_second']) == (20, 8)
  assert ours['gflop_per_image'] == 4  # 8 of each of 2 devices for 4 images
  assert ours['share_of_peak'] == pytest.approx(20 * 2e9 / 2e11)
  assert (one['p50_ms'], one['p95_ms']) == pytest.approx((50, 95))
  assert ours['joules_per_image'] == 10
  ratios = benchmark_report.ratios(lines)
  assert ratios == {
    'train, ours, bfloat16': {'torch': 2.5},
    'one image, ours, bfloat16': {'torch': 3.0},
  }
  assert '| train, ours, bfloat16     | 2.50x |' in benchmark_report.ratio_table(ratios)
  assert '20%' in benchmark_report.table(lines)


def test_the_peak_is_that_of_the_fastest_repetition(monkeypatch):
  import peak

  clock = itertools.accumulate([0, 4, 0, 2, 0, 8, 0, 3, 0, 5])
  monkeypatch.setattr(peak.time, 'perf_counter', lambda: next(clock))
  calls = []
  found = peak.fastest(lambda: calls.append(1), lambda: None, side=10, calls=3)
  assert found == 3 * 2 * 10**3 / 2
  assert len(calls) == 1 + 3 * peak.REPETITIONS


def write_zone(folder, name, kind, energy):
  zone = folder / name
  zone.mkdir(parents=True, exist_ok=True)
  for file, value in (('name', kind), ('energy_uj', energy), ('max_energy_range_uj', 1000)):
    (zone / file).write_text(f'{value}\n')


def test_energy_of_packages_begins_again_behind_the_range(tmp_path):
  import energy

  write_zone(tmp_path, 'intel-rapl:0', 'package-0', 900)
  write_zone(tmp_path, 'intel-rapl:0:0', 'core', 0)
  write_zone(tmp_path, 'intel-rapl:1', 'package-1', 10)
  write_zone(tmp_path, 'intel-rapl:2', 'psys', 0)
  joules = energy.of_packages(tmp_path)
  assert joules() == 0
  write_zone(tmp_path, 'intel-rapl:0', 'package-0', 50)  # 150 on
  write_zone(tmp_path, 'intel-rapl:0:0', 'core', 77)
  write_zone(tmp_path, 'intel-rapl:1', 'package-1', 15)
  write_zone(tmp_path, 'intel-rapl:2', 'psys', 500)
  assert joules() == pytest.approx(155e-6)
  write_zone(tmp_path, 'intel-rapl:0', 'package-0', 40)  # 990 on
  assert joules() == pytest.approx(1145e-6)


def test_no_counter_where_there_is_none_or_it_cannot_be_read(tmp_path):
  import energy

  assert energy.of_packages(tmp_path / 'missing') is None
  write_zone(tmp_path, 'intel-rapl:0', 'package-0', 1)
  (tmp_path / 'intel-rapl:0' / 'energy_uj').unlink()
  assert energy.of_packages(tmp_path) is None


def test_ours_trains_and_scores_in_each_dtype(images):
  from benchmark_ours import Setup, candidates

  setup = Setup('tiny_basic', size=32, batch=4, caches=('off',))
  found = candidates(setup, 'bfloat16', images)
  assert [candidate.name for candidate in found[:2]] == [
    'train, ours, bfloat16, teacher recomputed',
    'inference, ours, bfloat16',
  ]
  for candidate in found:
    assert candidate.dtype == 'bfloat16'
    assert all(seconds > 0 for seconds in candidate.times(2))
  train, inference = found[:2]
  assert train.flop > 3 * inference.flop > 0  # forwards and backwards


def test_a_side_that_cannot_start_says_why(images):
  from benchmark_others import runtime_works
  from other_process import OtherProcess

  with pytest.raises(UserError, match=r'^no_such_package is not installed: pip install '):
    OtherProcess('no_such_package', runtime_works)
  process = OtherProcess('numpy', runtime_works, b'', images, 'no_such_runtime', True, 'x')
  with pytest.raises(UserError, match=r'no_such_runtime|needs onnxruntime'):
    process.result('about')
  process.close()
  with pytest.raises(UserError, match='the process with numpy ended'):
    process.result('about')


def test_pytorch_computes_alike_in_both_dtypes(images):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  import torch
  import torch_rd

  def losses(dtype):
    torch.manual_seed(0)
    model = torch_rd.Distillation('tiny_basic', 5, 32, 'cpu', dtype)
    batch = torch.from_numpy(images)
    found = [float(model.train_step(batch, batch)) for _ in range(3)]
    maps, scores = model.score(batch)
    assert maps.shape == (4, 32, 32) and maps.dtype == torch.float32
    assert torch.equal(scores, maps.amax((1, 2)))
    return found

  exact = losses('float32')
  assert exact[2] < exact[0]
  np.testing.assert_allclose(losses('bfloat16'), exact, rtol=0.03)


def test_pytorch_s_process_does_all_works(images):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  from benchmark_others import candidates, start
  from benchmark_ours import Setup

  process = start('torch_bfloat16', Setup('tiny_basic', size=32, batch=4), images)
  about = process.result('about')
  assert about.side == 'torch, bfloat16' and about.items['one image'] == 1
  for candidate in candidates(process, about):
    assert sum(candidate.times(2)) > 0
  process.close()


def test_the_exported_file_runs_in_a_runtime(images):
  pytest.importorskip('jax2onnx', reason="needs pip install '.[onnx]'")
  pytest.importorskip('onnxruntime')
  from benchmark_others import runtime_works
  from benchmark_ours import Setup, onnx_works

  content = onnx_works(Setup('tiny_basic', size=32, batch=4))['content']()
  works = runtime_works(content, images, 'onnxruntime', True, 'onnxruntime')
  maps, scores = works['inference']()
  assert maps.shape == (4, 32, 32) and scores.shape == (4,)
  one, _ = works['one image']()
  np.testing.assert_allclose(one[0], maps[0], atol=1e-4)
  assert works['about']().side == 'onnxruntime'


def test_the_tool_prints_its_tables(tmp_path):
  """As its user starts it; PyTorch takes part, or is named with what to install."""
  flags = ['--backbones=tiny_basic', '--size=32', '--batch_size=2', '--cache_features=off']
  few = ['--repetitions=1', '--seconds=0.01', f'--out={tmp_path}/speed.json']
  result = subprocess.run(
    [sys.executable, TOOLS / 'benchmark.py', *flags, *few, '--against=torch'],
    env=os.environ
    | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': '--xla_backend_optimization_level=0'},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  assert '| train, ours, float32, teacher recomputed |' in result.stdout
  with_torch = '| against ' in result.stdout and 'train, torch ' in result.stdout
  assert with_torch or 'torch is left out: torch is not installed: pip' in result.stdout
  assert '"images_per_second"' in (tmp_path / 'speed.json').read_text()


def test_unknown_names_are_refused():
  result = subprocess.run(
    [sys.executable, TOOLS / 'benchmark.py', '--against=tensorflow'],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert 'give some of torch, torch_bfloat16, torch_compile' in result.stderr
