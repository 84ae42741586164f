import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from memkd_jax.metrics import collect_pixels
from memkd_jax.report.curves import thin, write_curves
from memkd_jax.scoring.calibration import Threshold


def test_thinning_keeps_the_shape_and_the_ends(rng):
  x = np.sort(rng.random(200_000))
  y = np.sqrt(x)
  a, b = thin(x, y, 500)
  assert len(a) <= 501
  assert (a[0], a[-1], b[-1]) == (x[0], x[-1], y[-1])
  np.testing.assert_allclose(np.interp(x, a, b), y, atol=2e-3)


def test_a_steep_rise_is_kept():
  x, y = np.zeros(100_000), np.linspace(0, 1, 100_000)
  a, b = thin(np.append(x, 1), np.append(y, 1), 100)
  assert (a == 0).sum() > 30
  assert np.diff(b).max() < 0.03


def test_short_curves_stay_as_they_are():
  x, y = np.arange(3.0), np.arange(3.0)
  assert thin(x, y)[0] is x


@pytest.mark.parametrize('with_masks', [True, False])
def test_the_picture_has_its_panels(tmp_path, rng, with_masks, monkeypatch):
  drawn = []
  monkeypatch.setattr(Figure, 'savefig', save_and_keep(drawn))
  masks = rng.integers(0, 2, (4, 16, 16))
  pixels = collect_pixels(masks, rng.random(masks.shape)) if with_masks else None
  write_curves(tmp_path / 'curves.png', np.array([0, 1, 0, 1]), np.array([1, 4, 2, 3]), pixels)
  with Image.open(tmp_path / 'curves.png') as picture:
    assert picture.size == (800, 800)
  (figure,) = drawn
  titles = ['ROC', 'precision and recall', *['PRO'] * with_masks, 'image scores']
  assert [axis.get_title() for axis in figure.axes] == titles
  scores = figure.axes[-1]
  (threshold,) = scores.get_lines()
  assert threshold.get_xdata()[0] == 3
  assert threshold.get_label() == 'highest F1: 1.000, chosen\non these very test scores'
  labels = {text.get_text() for text in scores.get_legend().get_texts()}
  assert {'normal', 'anomalous'} < labels


def test_equal_scores_are_drawn_too(tmp_path):
  write_curves(tmp_path / 'curves.png', np.array([0, 1, 0, 1]), np.zeros(4))
  assert (tmp_path / 'curves.png').stat().st_size > 1000


def save_and_keep(kept):
  save = Figure.savefig
  return lambda figure, *args, **kwargs: kept.append(figure) or save(figure, *args, **kwargs)


@pytest.mark.parametrize(
  ('labels', 'held_out'),
  [
    ([], np.array([0.5, 1.5])),
    ([0, 0, 0], None),
    ([0, 0, 0], np.array([0.5, 1.5])),
    ([1, 1, 1], None),
    ([1, 1, 1], np.array([0.5, 1.5])),
  ],
)
def test_one_class_has_a_histogram_alone(tmp_path, monkeypatch, labels, held_out):
  axes = []
  add = Figure.subplot_mosaic
  monkeypatch.setattr(
    Figure, 'subplot_mosaic', lambda *a, **k: axes.append(add(*a, **k)) or axes[-1]
  )
  threshold = Threshold(1.25, 0.1, 0.1, (0.0, 0.2))
  write_curves(
    tmp_path / 'curves.png',
    np.array(labels, int),
    np.arange(len(labels), dtype=float),
    held_out=held_out,
    threshold=threshold,
  )
  (drawn,) = axes
  assert list(drawn) == ['s']
  texts = [text.get_text() for text in drawn['s'].get_legend().get_texts()]
  assert ('held out, normal' in texts) == (held_out is not None)
  assert 'threshold: 1.25' in texts
  assert not any('F1' in text for text in texts)
