"""memkd train --compile-only: what is said of programs, without any data."""

import jax
import pytest

from memkd_jax import main
from memkd_jax.runtime import topology

TINY = (
  '--config.model.backbone=tiny_basic',
  '--config.model.teacher_weights=random',
  '--config.data.image_size=32',
)


def run(*arguments):
  return main.main([*arguments, *TINY])


@pytest.fixture
def away(tmp_path, monkeypatch):
  """An empty folder, in which nothing must be written, and no compiler for TPUs."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(topology, 'has_compiler', lambda: False)
  yield
  assert not list(tmp_path.iterdir())


def test_programs_for_tpus_are_lowered_where_there_is_no_compiler(away, capsys):
  assert run('--config=mvtec:rd', '--compile-only=v5e-4', '--config.train.batch_size=8') == 0
  out = capsys.readouterr().out
  assert 'RD with tiny_basic, 32 pixels, bfloat16, for 4 x TPU (v5e:2x2), lowered only.' in out
  step, scoring = out.split('training step, batch of 8')[1].split('scoring, batch of 16')
  assert 'x all-reduce, ' in step and 'GFLOP' in step
  assert 'exchange     none' in scoring
  assert 'pip install "jax[tpu]", which needs no TPU' in out


@pytest.mark.slow
def test_programs_are_compiled_for_the_devices_at_hand(away, capsys):
  assert run('--config=mvtec:rd', '--compile-only', '--config.train.batch_size=8') == 0
  out = capsys.readouterr().out
  assert '32 pixels, float32, for 4 x cpu' in out
  assert out.count('compiled in') == out.count('temporaries') == 2


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--config=mvtec:knn', '--compile-only'), 'kNN takes no training steps'),
    (('--config=mvtec', '--compile-only=v5e-7'), 'this is no topology'),
    (('--config=mvtec', '--compile-only=v5e-16'), 'device_count=16'),
    (
      ('--config=mvtec:rd', '--compile-only=v5e-4', '--config.train.batch_size=6'),
      'train.batch_size=6 cannot be split equally over 4 devices',
    ),
    (('--config=ablations/stages', '--compile-only'), 'is a sweep of several'),
    (('--config=mvtec', '--compile-only', '--mode=evaluate'), 'leave --mode out'),
  ],
)
def test_what_cannot_be_compiled_is_said_in_one_sentence(away, capsys, arguments, message):
  assert len(jax.devices()) == 4
  assert run(*arguments) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert message in line


@pytest.mark.slow
@pytest.mark.skipif(not topology.has_compiler(), reason='needs libtpu, the compiler for TPUs')
def test_programs_are_compiled_for_tpus(capsys):
  assert run('--config=mvtec:rd', '--compile-only=v5e-4') == 0
  out = capsys.readouterr().out
  assert 'for 4 x TPU v5 lite (v5e:2x2).' in out
  assert out.count('compiled in') == 2
