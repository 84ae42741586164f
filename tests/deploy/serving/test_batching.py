"""The batcher with a detector that is none: what goes into which batch."""

import threading

import numpy as np
import pytest

from memkd_jax.deploy.serving.batching import Batcher, BusyError
from memkd_jax.scoring.base import Result


class Scorer:
  """Gives each image its first pixel as score, when it is let."""

  images_at_once = 4

  def __init__(self):
    self.go = threading.Event()
    self.started = threading.Event()
    self.batches = []
    self.compiled = False

  def compile(self):
    self.compiled = True

  def score_canvases(self, images):
    self.batches.append(len(images))
    self.started.set()
    assert self.go.wait(30)
    scores = np.array([image[0, 0, 0] for image in images], np.float32)
    return Result(np.zeros((len(images), 1, 1), np.float32), scores, None, scores > 2)


@pytest.fixture
def scorer():
  return Scorer()


@pytest.fixture
def batcher(scorer):
  batcher = Batcher([scorer], limit=10)
  batcher.start()
  yield batcher
  scorer.go.set()
  batcher.close()


def image(value):
  return np.full((1, 1, 3), value, np.uint8)


def test_what_comes_meanwhile_is_scored_together(batcher, scorer):
  first = batcher.submit(scorer, image(0))
  assert scorer.started.wait(30)
  others = [batcher.submit(scorer, image(i)) for i in range(1, 8)]
  scorer.go.set()
  results = [future.result(30) for future in [first, *others]]
  assert scorer.compiled
  assert [float(r.scores[0]) for r in results] == list(range(8))
  assert [bool(r.decisions[0]) for r in results] == [i > 2 for i in range(8)]
  assert scorer.batches == [1, 4, 3]


def test_batches_are_hardly_padded(batcher, scorer):
  scorer.images_at_once = 16
  first = batcher.submit(scorer, image(0))
  assert scorer.started.wait(30)
  others = [batcher.submit(scorer, image(i)) for i in range(1, 10)]
  scorer.go.set()
  assert [float(f.result(30).scores[0]) for f in [first, *others]] == list(range(10))
  assert scorer.batches == [1, 8, 1]


def test_batches_are_of_one_detector(batcher, scorer):
  other = Scorer()
  other.go.set()
  first = batcher.submit(scorer, image(0))
  assert scorer.started.wait(30)
  futures = [batcher.submit([scorer, other][i % 2], image(i)) for i in range(6)]
  scorer.go.set()
  assert [float(f.result(30).scores[0]) for f in [first, *futures]] == [0, *range(6)]
  assert scorer.batches == [1, 3]
  assert other.batches == [3]


def test_an_error_is_that_of_its_batch_alone(batcher, scorer):
  def fail(images):
    raise MemoryError('no memory')

  failing = Scorer()
  failing.__class__ = type(
    'Failing', (Scorer,), {'score_canvases': lambda self, images: fail(images)}
  )
  scorer.go.set()
  with pytest.raises(MemoryError, match='no memory'):
    batcher.submit(failing, image(0)).result(30)
  assert batcher.submit(scorer, image(1)).result(30).scores[0] == 1


def test_who_has_gone_is_left_out(batcher, scorer):
  first = batcher.submit(scorer, image(0))
  assert scorer.started.wait(30)
  gone, stays = batcher.submit(scorer, image(1)), batcher.submit(scorer, image(2))
  assert gone.cancel()
  scorer.go.set()
  assert first.result(30).scores[0] == 0
  assert stays.result(30).scores[0] == 2
  assert scorer.batches == [1, 1]


def test_admission_is_bounded(batcher):
  with batcher.admit(7):
    with pytest.raises(BusyError), batcher.admit(4):
      pass
    with batcher.admit(3):
      assert batcher.admitted == 10
  assert batcher.admitted == 0


def test_closing_scores_what_waits(scorer):
  batcher = Batcher([scorer], limit=10)
  batcher.start()
  futures = [batcher.submit(scorer, image(i)) for i in range(6)]
  scorer.go.set()
  batcher.close()
  assert [float(f.result(0).scores[0]) for f in futures] == list(range(6))
  with pytest.raises(BusyError):
    batcher.submit(scorer, image(0))
