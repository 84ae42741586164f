"""Trains and evaluates: python -m memkd_jax.main --config=configs/mvtec.py."""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from memkd_jax import compile_cache, processes, sweep, train
from memkd_jax.errors import UserError, explain

_DEMO = str(Path(__file__).with_name('demo_config.py'))

_CONFIG = config_flags.DEFINE_config_file(
  'config', _DEMO, 'A file of configs/; the demo where none is given.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, "The run's folder; runs/<data set> where none is given."
)
_MODE = flags.DEFINE_enum(
  'mode', 'train', train.MODES, "'evaluate' scores existing checkpoints only."
)
_DUMP_MAPS = flags.DEFINE_bool(
  'dump-maps', False, 'Write the maps of what is scored to DIR/anomaly_maps, as float32 TIFFs.'
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
  ablation = bool(_CONFIG.value.sweep.variants)
  if ablation and not _WORKDIR.value:  # variants of several ablations have the same names
    sys.exit('memkd_jax: an ablation needs a folder of its own; name it with --workdir.')
  workdir = _WORKDIR.value or Path('runs') / _CONFIG.value.data.dataset
  runner = sweep.run if ablation else train.run
  try:
    processes.start(_COORDINATOR.value, _PROCESS_COUNT.value, _PROCESS_ID.value)
    with processes.one_run():
      if problem := compile_cache.enable():
        print(f'Note: {problem}', flush=True)
      results = runner(_CONFIG.value, workdir, _MODE.value, _DUMP_MAPS.value)
      page = Path(workdir).expanduser() / ('sweep.md' if ablation else 'report.html')
      print(f'Report: {page}', flush=True)
  except (UserError, OSError) as error:
    sys.exit(f'memkd_jax: {explain(error)}')
  except KeyboardInterrupt:
    print('\nInterrupted; the same command resumes from the last checkpoint.', file=sys.stderr)
    sys.exit(130)
  sys.exit(1 if results['failed'] else 0)


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses as absl does, and makes one sentence of what config_flags raises."""
  try:
    rest = flags.FLAGS(argv)
    _ = _CONFIG.value.data  # a file that did not load is reported only here
    return rest
  except flags.Error as error:
    lines = str(error).strip().splitlines()
    sys.exit(f'memkd_jax: {" ".join(dict.fromkeys([lines[0], lines[-1].strip()]))}')
  except (AttributeError, KeyError) as error:
    cause: Exception = error
    while cause.args and isinstance(cause.args[0], Exception):
      cause = cause.args[0]  # ml_collections wraps what it means
    hint = ' '.join(str(cause.args[0]).split())
    sys.exit(f'memkd_jax: the config has no field {hint} (memkd_jax/config.py lists them all)')
  except (OSError, SyntaxError, ImportError, TypeError) as error:
    reason = str(error).strip().splitlines()[-1].strip()
    sys.exit(f'memkd_jax: --config cannot be loaded: {reason}')


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
