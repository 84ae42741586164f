import numpy as np
from PIL import Image

from memkd_jax.report.memory_figure import write_memory_figure


def test_a_row_for_each_memory(tmp_path, rng):
  summaries = {f'm{m}': {'usage': rng.dirichlet(np.ones(5)).tolist()} for m in (1, 2)}
  cosines = {name: (rng.random(30), rng.random(9)) for name in summaries}
  course = [{'step': s, 'm1_entropy': 0.5, 'm1_keys_cosine': 0.1} for s in (10, 20)]
  write_memory_figure(tmp_path / 'memory.png', summaries, cosines, course)
  with Image.open(tmp_path / 'memory.png') as figure:
    assert figure.size == (900, 600)
  write_memory_figure(tmp_path / 'one.png', {'m1': summaries['m1']}, cosines, [])
  with Image.open(tmp_path / 'one.png') as figure:
    assert figure.size == (900, 300)


def test_a_column_shows_which_items_serve_which_category(tmp_path, rng):
  usage = rng.dirichlet(np.ones(5), size=3)
  by_category = dict(zip(('bolt', 'nut', 'washer'), usage.tolist(), strict=True))
  summary = {
    'usage': usage.mean(0).tolist(),
    'usage_by_category': by_category,
    'category_information': 0.1,
  }
  write_memory_figure(tmp_path / 'x.png', {'m1': summary}, {'m1': (rng.random(9),) * 2}, [])
  with Image.open(tmp_path / 'x.png') as figure:
    assert figure.size == (1350, 300)
