"""What commands share: how flags are spelled, a model's flags, errors as exit codes.

Nothing here is slow to import, so that a command answers --help and a wrong flag at once;
what takes seconds is imported where a command begins its work.
"""

import argparse
import difflib
import faulthandler
import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from memkd_jax.errors import UserError, explain
from memkd_jax.runtime import huge_pages, interrupt
from memkd_jax.wording import counted

if TYPE_CHECKING:
  from memkd_jax.data.listing import LeftOut
  from memkd_jax.deploy.from_file import FileDetector
  from memkd_jax.detector import Detector
  from memkd_jax.scoring.base import BaseDetector
  from memkd_jax.scoring.calibration import Calibration, Threshold

_TRUE, _FALSE = ('true', 't', '1'), ('false', 'f', '0')


class Parser(argparse.ArgumentParser):
  """Ends a wrong command line with one sentence, and knows spellings of the last release.

  These are underscores in the names of flags, and --noNAME, --NAME=true and --NAME=false for
  what is on or off.

  Attributes:
    usage_code: the exit code for a wrong command line.
  """

  def __init__(self, name: str, description: str, usage_code: int = 2, **options: Any):
    """Makes the parser of one command.

    Args:
      name: the command, as it is given after `memkd`; '' for `memkd` itself.
      description: one sentence for --help.
      usage_code: the exit code after a wrong command line.
      options: further arguments of `argparse.ArgumentParser`.
    """
    prog = f'memkd {name}'.strip()
    super().__init__(prog=prog, description=description, allow_abbrev=False, **options)
    self.usage_code = usage_code

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """See `argparse`; `parse_args` goes through here as well."""
    given = sys.argv[1:] if args is None else args
    return super().parse_known_args([self._modernize(word) for word in given], namespace)

  def error(self, message: str) -> NoReturn:
    """Ends the process."""
    self.exit(self.usage_code, f'{self.prog}: {explain(UserError(message))}\n')

  def no_such_flag(self, flag: str) -> str:
    """The sentence for a flag that is none, with the one that was probably meant."""
    close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
    remedy = f'did you mean {close[0]}?' if close else '--help lists all flags.'
    return f'there is no flag {flag}; {remedy}'

  def _modernize(self, word: str) -> str:
    """A word of the command line as this release spells it."""
    name, equals, value = word.partition('=')
    name = name.replace('_', '-')
    if (off := f'--no-{name[4:]}') in self._option_string_actions and name[:4] == '--no':
      return f'{off}{equals}{value}'
    action = self._option_string_actions.get(name)
    if not word.startswith('--') or action is None:
      return word
    if isinstance(action, argparse.BooleanOptionalAction) and value.lower() in _TRUE:
      return name
    if isinstance(action, argparse.BooleanOptionalAction) and value.lower() in _FALSE:
      return f'--no-{name[2:]}'
    return f'{name}{equals}{value}'


def start(main: Callable[[], int | None]) -> NoReturn:
  """Runs a command as all that this process does."""
  prepare_process(computes=True)
  sys.exit(main())


def prepare_process(computes: bool) -> None:
  """Makes this process a command's own; to be called before anything slow is imported.

  Args:
    computes: whether it is worth starting again on huge pages; see `huge_pages`.
  """
  if computes:
    huge_pages.restart_with_huge_pages()
  if sys.stderr is not None:
    faulthandler.enable()  # a crash in compiled code shows where in Python it was


def exit_code(name: str, body: Callable[[], int | None], stopped: str = '') -> int:
  """Runs the body of a command, and says in one sentence on stderr what ended it early.

  Args:
    name: what the sentence begins with, as a rule the command's name.
    body: the work of the command; its result is the exit code, None for 0.
    stopped: what a signal leaves, as the end of a sentence.

  Returns:
    The exit code: 1 where the input is wrong, 75 after a signal that
    `interrupt.handled` took.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # file names may hold what no terminal shows
      stream.reconfigure(errors='backslashreplace')
  try:
    return body() or 0
  except (UserError, OSError) as error:
    print(f'{name}: {explain(error)}', file=sys.stderr)
    return 1
  except interrupt.Interrupted as signal:
    print(f'\n{name}: stopped by {signal}{stopped}.', file=sys.stderr)
    return interrupt.EXIT_CODE


def say(sentence: str) -> None:
  """On stderr: stdout is for what can be piped."""
  print(sentence, file=sys.stderr, flush=True)


def say_begin(detector: 'BaseDetector', number: int, left_out: 'Sequence[LeftOut]') -> None:
  """Says what is scored where, before that compiles for some seconds.

  Args:
    detector: the detector that will score the files.
    number: number of the files that are scored.
    left_out: what is not scored, see `data.listing`.
  """
  from memkd_jax.data.listing import describe_left_out

  if left_out:
    say(describe_left_out(left_out))
  say(f'Scoring {counted(number, "image")} on {detector.device}{detector.begins_with} ...')


def start_jax(*dtypes: str | None) -> None:
  """Starts JAX, and keeps compiled programs between runs, or says why not.

  Args:
    dtypes: what models are to compute in, see `onednn`.

  Raises:
    UserError: there is no device of the kind that the environment asks for.
  """
  from memkd_jax.runtime import compile_cache, devices, onednn

  onednn.ask_for_it(*dtypes)
  devices.backend()
  if problem := compile_cache.enable():
    say(f'Note: {problem}')


def add_model_flags(parser: argparse.ArgumentParser, *, files: str | None = None) -> None:
  """Adds --workdir, --category, --seed and --teacher-weights, which name a trained model.

  Args:
    parser: the command's parser, to which the flags are added.
    files: where exported files do as well, the action of --model, which is added with
      --runtime: 'store' for one file, 'append' for several.
  """
  add = parser.add_argument
  if files is None:
    add('--workdir', required=True, metavar='DIR', help="the run's folder")
  else:
    either = parser.add_mutually_exclusive_group(required=True).add_argument
    either('--workdir', metavar='DIR', help="the run's folder")
    again = '; may be given again' if files == 'append' else ''
    text = f'in place of a run an ONNX file that memkd export wrote{again}'
    either('--model', action=files, metavar='FILE', help=text)
    add(
      '--runtime',
      choices=('auto', 'onnxruntime', 'openvino'),
      default='auto',
      help='with --model: what runs it; onnxruntime where it is installed, if left out',
    )
  add(
    '--category',
    metavar='NAME',
    help='the category that was trained; may be left out if there is one alone, or one model '
    'of all (train.scope=joint): then an image is anomalous where it would be so for each',
  )
  add('--seed', type=int, metavar='N', help="the training's seed; the run's first if left out")
  add('--teacher-weights', metavar='FILE', help='where the teacher lies now, if it was moved')


def add_threshold_flags(parser: argparse.ArgumentParser) -> None:
  """Adds --false-alarm-rate and --threshold, one of which may be given."""
  add = parser.add_mutually_exclusive_group().add_argument
  add(
    '--false-alarm-rate',
    type=float,
    metavar='RATE',
    help='share of normal images that may be called anomalous, which sets the threshold; 0.01, '
    'or the lowest that the held-out images support, if left out; none without being asked '
    'for where that is above 0.1',
  )
  add(
    '--threshold',
    type=float,
    metavar='VALUE',
    help='threshold of the image score by hand: images are anomalous above it',
  )


def names_files(flags: argparse.Namespace) -> bool:
  """Whether parsed flags name exported files and not a run; see `add_model_flags`.

  Raises:
    UserError: there is a runtime for a run.
  """
  if flags.model is None and flags.runtime != 'auto':
    raise UserError('--runtime is for a file of --model; leave it out.')
  return flags.model is not None


def load_files(flags: argparse.Namespace, files: Sequence[str]) -> 'list[FileDetector]':
  """Loads exported models; raises as `from_file.load_file` does."""
  from memkd_jax.deploy.from_file import load_file

  for name in ('category', 'seed', 'teacher-weights'):
    if getattr(flags, name.replace('-', '_')) is not None:
      raise UserError(f'--model names one model, with its teacher inside; leave --{name} out.')
  asked = {'false_alarm_rate': flags.false_alarm_rate, 'threshold': flags.threshold}
  return [load_file(file, flags.runtime, **asked) for file in files]


def start_jax_for(workdir: str) -> None:
  """`start_jax` for the models of a run, whatever may be wrong with them."""
  from memkd_jax.workdir import Workdir

  start_jax(Workdir(workdir).read_of_model('dtype'))


def load_named(flags: argparse.Namespace, dtype: str | None = None) -> 'Detector':
  """Loads the model of a run that parsed flags name; `dtype` and errors as `detector.load`."""
  from memkd_jax.detector import load

  return load(
    flags.workdir,
    flags.category,
    seed=flags.seed,
    false_alarm_rate=getattr(flags, 'false_alarm_rate', None),
    threshold=getattr(flags, 'threshold', None),
    teacher_weights=flags.teacher_weights,
    dtype=dtype,
  )


def describe_threshold(calibration: 'Calibration | None', threshold: 'Threshold | None') -> str:
  """A threshold, and how well it is known, as one sentence; or why there is none."""
  from memkd_jax.scoring.calibration import why_undecided

  if threshold is None:
    return why_undecided(calibration)
  if threshold.false_alarm_rate is None:
    name = f'Threshold {threshold.value:g}, set by hand'
  else:
    name = f'Threshold {threshold.value:.4f}'
  if calibration is None or threshold.expected is None or threshold.interval is None:
    return f'{name}: no images were held out that would tell how many normal ones score higher.'
  number = len(calibration.scores)
  low, high = map(_percent, threshold.interval)
  return (
    f'{name}: of normal images {_percent(threshold.expected)} are expected to score higher '
    f'(95% interval {low} to {high}, from {counted(number, "held-out image")}).'
  )


def _percent(share: float) -> str:
  return '100%' if share > 0.995 else f'{100 * share:.2g}%'
