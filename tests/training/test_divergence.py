import json

import pytest

from memkd_jax.training.divergence import describe


def log_of(folder, losses):
  path = folder / 'metrics.jsonl'
  lines = [json.dumps({'step': i, 'loss': loss}) for i, loss in enumerate(losses, start=1)]
  path.write_text('\n'.join(lines) + '\n{"step": 10000, "lo')
  return path


@pytest.mark.parametrize(
  'losses',
  [
    [1.0] * 9,  # too few to tell
    [1.0] * 50,
    [1 / (1 + i) for i in range(57)],
    [0.5] * 45 + [9.0] + [0.5] * 4,  # one step is no divergence
    [1.0, 0.5, *[0.1] * 18, 0.19, 0.19],
    [*[200.0] * 2, 1.0, *[1e-3] * 15, 5e-3, 5e-3],  # which is still next to nothing
  ],
)
def test_a_training_that_went_well_is_not_spoken_of(tmp_path, losses):
  assert describe(log_of(tmp_path, losses), 'bolt') is None


@pytest.mark.parametrize(
  ('losses', 'said'),
  [
    ([0.75] * 5 + [3.0] * 5, '0.75 at first, 0.75 at its lowest and 3 at the end'),
    (
      [1.0, 1.0, *[0.1] * 10, *[0.9] * 9],
      '1 at first, 0.1 at its lowest and 0.9 at the end',
    ),
    (
      [*[200.0] * 2, *[1e-3] * 16, *[25.0] * 2],
      '200 at first, 0.001 at its lowest and 25 at the end',
    ),
  ],
)
def test_a_loss_that_rose_far_is(tmp_path, losses, said):
  note = describe(log_of(tmp_path, losses), 'bolt')
  assert note.startswith(f'The training of bolt diverged: its loss was {said};')


def test_without_a_log_nothing_is_said(tmp_path):
  assert describe(tmp_path / 'metrics.jsonl', 'bolt') is None
