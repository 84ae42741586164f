"""Writes a data set like the demo's, made only of what the demo does not test on.

  python tools/demo_validation.py --out=/tmp/demo_validation
  python -m memkd_jax.main --config=configs/demo.py --config.data.dir=/tmp/demo_validation ...

For whatever is chosen for the demo, its teacher above all. The upper two thirds of each
texture are laid on their side and split as the demo splits the whole: the left two thirds
are trained on, the right third is tested on. The demo's teacher has seen both.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags

from memkd_jax.data.benchmarks import demo_textures
from memkd_jax.errors import explain

_OUT = flags.DEFINE_string('out', None, 'A folder that does not exist yet.', required=True)


def known_part(category: str) -> np.ndarray:
  """uint8 [W, H], the upper two thirds on their side."""
  return demo_textures.training_part(demo_textures.photograph(category)).T


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  out = Path(_OUT.value).expanduser()
  if out.exists():
    sys.exit(f'demo_validation: {out} exists already; choose another --out.')
  try:
    demo_textures.prepare(out, known_part)
  except OSError as error:
    sys.exit(f'demo_validation: {explain(error)}')
  print(out)


if __name__ == '__main__':
  app.run(main)
