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
