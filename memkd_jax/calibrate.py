"""Sets a model's threshold anew, without training: memkd calibrate --workdir=DIR --good=FOLDER.

For new light, a new camera, or a run that held no images out: a few images of good parts say
how high a score is that means nothing.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from memkd_jax import cli
from memkd_jax.runtime import interrupt

if TYPE_CHECKING:
  from memkd_jax.scoring.calibration import Calibration

_THREADS = 4  # that decode images


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (the input is wrong) or 75 (stopped)."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('calibrate', lambda: _run(flags), '; the threshold is as it was')


def _run(flags: argparse.Namespace) -> None:
  import numpy as np

  from memkd_jax.data.images import read_image
  from memkd_jax.deploy.prediction import list_inputs
  from memkd_jax.files import model
  from memkd_jax.scoring.calibration import Calibration
  from memkd_jax.workdir import Workdir

  with interrupt.handled():
    paths = list_inputs([flags.good])  # at least one
    cli.keep_programs()
    detector = cli.load_named(flags)
    for note in detector.notes:
      cli.say(f'Note: {note}')
    with ThreadPoolExecutor(_THREADS) as pool:
      images = [i for i, _ in pool.map(lambda p: read_image(p, detector.image_size), paths)]
    result = detector(np.stack(images))
    calibration = Calibration.from_maps(result.maps, result.scores)
    root = Path(flags.workdir).expanduser()
    if model.exists(root):  # a model alone, copied from a run
      model.write_facts(root, model.read_facts(root) | {'calibration': calibration.to_json()})
    else:
      folder = Workdir(root)
      with folder.locked():
        folder.write_calibration(detector.category, detector.trained.seed, calibration)
  print(f'Before: {_describe(detector.calibration)}')
  print(f'Now:    {_describe(calibration)}')
  print(f'Wrote the threshold of {detector.category}, from {len(paths)} images.')


def _describe(calibration: 'Calibration | None') -> str:
  if calibration is None:
    return 'no threshold.'
  return cli.describe_threshold(calibration, calibration.threshold(calibration.default_rate()))


def _parser() -> cli.Parser:
  parser = cli.Parser('calibrate', "Sets a model's threshold from new normal images.")
  cli.add_model_flags(parser)
  parser.add_argument(
    '--good',
    required=True,
    metavar='FOLDER|GLOB',
    help='images of flawless parts that the model was not trained on: a folder, with its '
    'subfolders, or a quoted pattern; 99 or more support a false-alarm rate of 0.01',
  )
  return parser


if __name__ == '__main__':
  cli.start(main)
