"""Sets a model's threshold anew, without training.

  memkd calibrate --workdir=DIR --good=FOLDER
  memkd calibrate --workdir=DIR --threshold=VALUE

For new light, a new camera, or a run that held no images out: a few images of good parts say
how high a score is that means nothing. Or somebody who knows sets the threshold by hand.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from memkd_jax import cli
from memkd_jax.errors import UserError, explain
from memkd_jax.runtime import interrupt
from memkd_jax.wording import counted

if TYPE_CHECKING:
  import numpy as np

  from memkd_jax.data.listing import LeftOut
  from memkd_jax.detector import Detector
  from memkd_jax.scoring.calibration import Calibration
  from memkd_jax.workdir import TrainedModel

_THREADS = 4  # that decode images
_LIST = '.txt'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (the input is wrong) or 75 (stopped)."""
  flags = _parser().parse_args(argv)
  run = _by_images if flags.threshold is None else _by_hand
  return cli.exit_code('calibrate', lambda: run(flags), '; the threshold is as it was')


def _by_images(flags: argparse.Namespace) -> None:
  from memkd_jax.deploy.prediction import choose_objects
  from memkd_jax.scoring.any_category import ANY
  from memkd_jax.scoring.calibration import Calibration, choose_threshold
  from memkd_jax.workdir import write_calibration

  with interrupt.handled():
    left_out: list[LeftOut] = []
    paths = list_good(flags.good, left_out)  # at least one
    cli.start_jax_for(flags.workdir)
    detector = cli.load_named(flags)
    if detector.category == ANY:
      raise UserError('Thresholds are those of a category; name it with --category.')
    for note in detector.notes:
      cli.say(f'Note: {note}')
    paths = choose_objects(paths, detector.framing, left_out)
    cli.say_begin(detector, len(paths), left_out)
    images = _read_all(paths, detector)
    if _trained_on(detector.trained, images):
      cli.say(
        f'Note: {flags.good} holds the very images that {detector.category} was trained on, '
        'which score lower than new ones do, so more good parts than expected will be called '
        'anomalous; calibrate with others.'
      )
    result = detector.score_canvases(images)
    calibration = Calibration.from_maps(result.maps, result.scores, images)
    _change(flags, detector.trained, lambda folder: write_calibration(folder, calibration))
  print(f'Before: {_describe(detector.trained)}')
  print(f'Now:    {cli.describe_threshold(calibration, choose_threshold(calibration))}')
  print(f'Wrote the threshold of {detector.category}, from {counted(len(paths), "image")}.')


def _by_hand(flags: argparse.Namespace) -> None:
  from memkd_jax.detector import read_named
  from memkd_jax.scoring.calibration import Threshold
  from memkd_jax.workdir import write_threshold

  trained = read_named(flags.workdir, flags.category, flags.seed)
  threshold = Threshold.by_hand(flags.threshold, trained.calibration)
  _change(flags, trained, lambda folder: write_threshold(folder, threshold.value))
  print(f'Before: {_describe(trained)}')
  print(f'Now:    {cli.describe_threshold(trained.calibration, threshold)}')
  print(f'Wrote the threshold of {trained.name}.')


def _change(
  flags: argparse.Namespace, trained: 'TrainedModel', write: Callable[[Path], None]
) -> None:
  """Writes into the folder of the model that the flags name."""
  from memkd_jax.files import model
  from memkd_jax.workdir import Workdir, opened

  with opened(flags.workdir) as root:
    if model.exists(root):  # a model alone, copied from a run
      write(root)
      return
    folder = Workdir(root)
    with folder.locked():
      write(folder.category(trained.name, trained.seed))


def list_good(good: str, left_out: 'list[LeftOut] | None' = None) -> list[Path]:
  """The images that --good names.

  Args:
    good: a folder, a pattern, an image, or a text file with a path a line, each beginning in
      that file's folder unless it is absolute.
    left_out: see `list_inputs`.

  Raises:
    UserError: it names no image, or one that is not there.
    OSError: the text file cannot be read.
  """
  from memkd_jax.deploy.prediction import list_inputs
  from memkd_jax.files.reading import read_text

  path = Path(good).expanduser()
  if path.suffix.lower() != _LIST or not path.is_file():
    return list_inputs([good], left_out)
  try:
    lines = [line.strip() for line in read_text(path).splitlines()]
  except ValueError as error:
    raise UserError(f'{path} is no list of images ({error}); write a path a line.') from error
  found = [path.parent / Path(line).expanduser() for line in lines if line]
  missing = [str(image) for image in found if not image.is_file()]
  if missing or not found:
    what = f'files that are not there: {", ".join(missing)}' if missing else 'no image'
    raise UserError(
      f"{path} names {what}; write a path a line, beginning in that file's folder or absolute."
    )
  return list(dict.fromkeys(found))


def _read_all(paths: Sequence[Path], detector: 'Detector') -> 'np.ndarray':
  """The images on their canvases, uint8 [N, H, W, channels] or objects [N].

  Raises:
    UserError: some cannot be read; all of them are named.
  """
  from memkd_jax.data import bit_depth
  from memkd_jax.data.framing import RGB
  from memkd_jax.data.images import read_image
  from memkd_jax.data.modalities import read_object

  bits = bit_depth.of_config(detector.trained.config)

  def read(path: Path) -> 'np.ndarray | UserError':
    try:
      if detector.framing.inputs == (RGB,):
        return read_image(path, detector.framing, bits)[0]
      return read_object(path, detector.framing, bits, lambda _: None)[0]
    except UserError as error:
      return error

  with ThreadPoolExecutor(_THREADS) as pool:
    images = list(pool.map(read, paths))
  broken = [explain(image).rstrip('.') for image in images if isinstance(image, UserError)]
  if broken:
    raise UserError(
      f'{len(broken)} of {len(paths)} images cannot be read, so the threshold is as it was; '
      f'leave them out: {"; ".join(broken)}.'
    )
  return detector.tiling.stacked([x for x in images if not isinstance(x, UserError)])


def _trained_on(trained: 'TrainedModel', images: 'np.ndarray') -> bool:
  """Whether these are all images that a model was trained on, perhaps with those held out.

  Single ones among others cannot be told: of the training images the digest of all is known.
  """
  from memkd_jax.data.sampling import calibration_plan
  from memkd_jax.files.digest import images_digest

  train = trained.config.train
  plan = calibration_plan(
    trained.seed,
    trained.name,
    len(images),
    train.holdout,
    train.get('calibration', 'holdout'),
    train.get('folds', 4),
  )
  parts = (images, images[plan.kept])
  return trained.train_sha256 in map(images_digest, parts)


def _describe(trained: 'TrainedModel') -> str:
  from memkd_jax.scoring.calibration import choose_threshold

  calibration: Calibration | None = trained.calibration
  threshold = choose_threshold(calibration, trained.threshold)
  if calibration is None and threshold is None:
    return 'no threshold.'
  return cli.describe_threshold(calibration, threshold)


def _parser() -> cli.Parser:
  parser = cli.Parser(
    'calibrate', "Sets a model's threshold from new normal images, or by hand."
  )
  cli.add_model_flags(parser)
  add = parser.add_mutually_exclusive_group(required=True).add_argument
  add(
    '--good',
    metavar='FOLDER|GLOB|LIST.txt',
    help='images of flawless parts that the model was not trained on: a folder, with its '
    'subfolders, a quoted pattern, or a text file with a path a line; 99 or more support a '
    'false-alarm rate of 0.01, 9 one of 0.1',
  )
  add(
    '--threshold',
    type=float,
    metavar='VALUE',
    help='threshold of the image score, which every command takes from then on until --good '
    'sets another; p-values stay those of the held-out images',
  )
  return parser


if __name__ == '__main__':
  cli.start(main)
