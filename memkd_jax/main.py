"""Trains and evaluates: python -m memkd_jax.main --config=configs/mvtec.py."""

import io
import sys
from pathlib import Path
from typing import NoReturn

from memkd_jax.runtime import huge_pages

if __name__ == '__main__':
  huge_pages.restart_with_huge_pages()  # before the imports that take seconds

from absl import app, flags, logging
from ml_collections import config_flags

from memkd_jax import run, sweep
from memkd_jax.errors import UserError, explain
from memkd_jax.run import run_config
from memkd_jax.runtime import compile_cache, determinism, hosts, interrupt

_SHOWN = 200  # characters at either end of what is wrong with a flag
_DEMO = str(Path(__file__).parent / 'configs' / 'demo.py')

_CONFIG = config_flags.DEFINE_config_file(
  'config', _DEMO, 'A file of configs/; the demo where none is given.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, "The run's folder; runs/<data set> where none is given."
)
_MODE = flags.DEFINE_enum(
  'mode', 'train', run.MODES, "'evaluate' scores existing checkpoints only."
)
_DUMP_MAPS = flags.DEFINE_bool(
  'dump-maps', False, 'Write the maps of what is scored to DIR/anomaly_maps, as float32 TIFFs.'
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Write a trace of a few steps of each training to its folder, profile/.'
)
_DETERMINISTIC = flags.DEFINE_bool(
  'deterministic', False, 'The same bits in every run, also on a GPU; slower there.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Where several processes run together: auto (TPU pod slice, SLURM, Open MPI), or HOST:PORT '
  'of process 0.',
)
_PROCESS_COUNT = flags.DEFINE_integer(
  'process-count', None, 'With --coordinator=HOST:PORT: how many processes there are.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process-id', None, 'With --coordinator=HOST:PORT: which of them this is, from 0.'
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  if _PROFILE.value:
    _CONFIG.value.train.profile = True
  if _DETERMINISTIC.value:
    determinism.enable()
  ablation = bool(_CONFIG.value.sweep.variants)
  if ablation and not _WORKDIR.value:  # variants of several ablations have the same names
    sys.exit('memkd_jax: an ablation needs a folder of its own; name it with --workdir.')
  workdir = _WORKDIR.value or Path('runs') / _CONFIG.value.data.dataset
  runner = sweep.run_sweep if ablation else run_config
  try:
    hosts.start(_COORDINATOR.value, _PROCESS_COUNT.value, _PROCESS_ID.value)
    with interrupt.handled(), hosts.one_run():
      if problem := compile_cache.enable():
        print(f'Note: {problem}', flush=True)
      results = runner(_CONFIG.value, workdir, _MODE.value, _DUMP_MAPS.value)
      page = Path(workdir).expanduser() / ('sweep.md' if ablation else 'report.html')
      print(f'Report: {page}', flush=True)
  except (UserError, OSError) as error:
    sys.exit(f'memkd_jax: {explain(error)}')
  except interrupt.Interrupted as signal:
    print(f'\nmemkd_jax: stopped by {signal}; the same command resumes.', file=sys.stderr)
    sys.exit(interrupt.EXIT_CODE)
  sys.exit(1 if results['failed'] else 0)


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses as absl does, and makes one sentence of what config_flags raises."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # file names may hold what no terminal shows
      stream.reconfigure(errors='backslashreplace')
  try:
    rest = flags.FLAGS(argv)
    _ = _CONFIG.value.data  # a file that did not load is reported only here
    return rest
  except flags.Error as error:
    lines = str(error).strip().splitlines()
    _give_up(' '.join(dict.fromkeys([lines[0], lines[-1].strip()])))
  except (AttributeError, KeyError) as error:
    cause: Exception = error
    while cause.args and isinstance(cause.args[0], Exception):
      cause = cause.args[0]  # ml_collections wraps what it means
    hint = ' '.join(str(cause.args[0]).split())
    _give_up(f'the config has no field {hint} (memkd_jax/config.py lists them all)')
  # What a config file raises, and what ml_collections does of fields that are none.
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    overrides = ' '.join(a for a in argv if a.startswith('--config.'))
    given = f' with {overrides}' if overrides else ''
    _give_up(f'--config cannot be loaded{given}: {reason}')


def _give_up(reason: str) -> NoReturn:
  """Ends with code 1 and one line, however long the value that it is about."""
  if len(reason) > 2 * _SHOWN:
    reason = f'{reason[:_SHOWN]} ... {reason[-_SHOWN:]}'
  sys.exit(f'memkd_jax: {explain(UserError(reason))}')


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
