"""Trains and evaluates: memkd train --config=mvtec, or python -m memkd_jax.main."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags
from absl import logging
from ml_collections import ConfigDict, config_flags

from memkd_jax import cli, methods
from memkd_jax import config as base
from memkd_jax.errors import UserError
from memkd_jax.runtime import determinism, interrupt

_CONFIGS = Path(__file__).with_name('configs')
_MODES = ('train', 'evaluate')
_SHOWN = 200  # characters at either end of what is wrong with a config


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (something failed) or 75 (stopped)."""
  logging.set_verbosity(logging.WARNING)
  parser = _parser()
  flags, overrides = parser.parse_known_args(argv)

  def body() -> int:
    name, fields = _choose_config(flags, overrides)
    try:
      config = load_config(name, fields)
    except absl_flags.UnrecognizedFlagError as error:
      raise UserError(parser.no_such_flag(f'--{error.flagname}')) from error
    return _run(flags, config)

  return cli.exit_code('memkd_jax', body, '; the same command resumes')


def _choose_config(flags: argparse.Namespace, overrides: list[str]) -> tuple[str, list[str]]:
  """The config that the flags mean, and what they set of it.

  Raises:
    UserError: they contradict each other, or leave open what is to be done.
  """
  given = next((word for word in overrides if word.startswith('--config.data.dir')), None)
  if flags.good is not None:
    if given or any(word.startswith('--config.data.dataset') for word in overrides):
      raise UserError('--good says where the images are; leave --config.data.* out.')
    fields = ['--config.data.dataset=images', f'--config.data.dir={flags.good}']
    return flags.config or 'best', [*fields, *overrides]
  if flags.config is None and given:
    raise UserError(
      f'{given} without --config, which stands for the demo, that makes its own images; say '
      'how yours lie: --config=folder for train/good and test/<defect>, or --good=FOLDER for a '
      'folder of good images.'
    )
  return flags.config or 'demo', overrides


def _default_name(good: str | None, config: ConfigDict) -> str:
  from memkd_jax.data.image_list import category_of  # takes a while to import

  name: str = config.data.dataset
  return category_of(Path(good).expanduser()) if good else name


def load_config(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Loads a config, and sets fields of it.

  Args:
    name: a file, or a config that the package brings, 'mvtec' for example; either with
      ':METHOD', an argument for its `get_config`.
    overrides: '--config.section.field=value', as on the command line.

  Raises:
    UserError: there is no such config, it cannot be loaded, or it has no such field.
    absl.flags.UnrecognizedFlagError: an override is another flag.
  """
  argv = ['memkd', f'--config={_find_config(name)}', *overrides]
  values = absl_flags.FlagValues()
  try:
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    _, *words = values(argv)
    config: ConfigDict = values.config
    _ = config.data  # a file that did not load is reported only here
    if config.sweep.variants:
      config.sweep.given = tuple(config_flags.get_override_values(values['config']))
  except (UserError, absl_flags.UnrecognizedFlagError):
    raise
  except absl_flags.Error as error:
    lines = str(error).strip().splitlines()
    raise _wrong(' '.join(dict.fromkeys([lines[0], lines[-1].strip()]))) from error
  except (AttributeError, KeyError) as error:
    cause: Exception = error
    while cause.args and isinstance(cause.args[0], Exception):
      cause = cause.args[0]  # ml_collections wraps what it means
    hint = ' '.join(str(cause.args[0]).split())
    raise _wrong(f'the config has no field {hint} (--help lists them all)') from error
  # What a config file raises, and what ml_collections does of fields that are none.
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    given = f' with {" ".join(overrides)}' if overrides else ''
    raise _wrong(f'--config cannot be loaded{given}: {reason}') from error
  if words:
    raise UserError(f'unexpected argument {words[0]!r}.')
  return config


def _find_config(name: str) -> str:
  """What absl takes for a name: a path, with what follows a colon."""
  path, colon, argument = name.partition(':')
  if Path(path).is_file():
    return name
  files = (file.relative_to(_CONFIGS) for file in _CONFIGS.rglob('*.py'))
  shipped = [str(file.with_suffix('')) for file in files if file.stem != '__init__']
  if path in shipped:
    return f'{_CONFIGS / path}.py{colon}{argument}'
  if Path(path).exists():  # a folder, or a pipe
    return name
  known = ', '.join(sorted(shipped, key=lambda name: ('/' in name, name)))
  raise UserError(
    f'--config cannot be loaded: there is no file {path[:_SHOWN]}, and among the configs that '
    f'come with the package none of that name: {known}.'
  )


def _wrong(reason: str) -> UserError:
  """An error of one line, however long the value that it is about."""
  if len(reason) > 2 * _SHOWN:
    reason = f'{reason[:_SHOWN]} ... {reason[-_SHOWN:]}'
  return UserError(reason)


def _run(flags: argparse.Namespace, config: ConfigDict) -> int:
  if flags.mode not in _MODES:
    raise UserError(f'flag --mode={flags.mode}: value should be one of <{"|".join(_MODES)}>.')
  if flags.compile_only is not None:
    return _compile_only(flags, config)
  if flags.profile:
    if 'profile' not in config.train:
      raise UserError(f'--profile: {config.method.name} takes no steps; leave the flag out.')
    config.train.profile = True
  if flags.deterministic:
    determinism.enable()
  ablation = bool(config.sweep.variants)
  if ablation and not flags.workdir:  # variants of several ablations have the same names
    raise UserError(
      'an ablation or a comparison needs a folder of its own; name it with --workdir.'
    )
  if ablation and flags.warm_start is not None:
    raise UserError('--warm-start: all variants begin anew; leave it out.')
  workdir = flags.workdir or Path('runs') / _default_name(flags.good, config)

  from memkd_jax import run, sweep
  from memkd_jax.runtime import devices, hosts, join, onednn

  runner = sweep.run_sweep if ablation else run.run_config
  origin = {} if flags.warm_start is None else {'warm_start': flags.warm_start}
  configs = sweep.variants(config).values() if ablation else [config]
  onednn.ask_for_it(*(variant.model.dtype for variant in configs))
  join.start(flags.coordinator, flags.process_count, flags.process_id)
  devices.backend()
  with interrupt.handled(), hosts.one_run():
    cli.start_jax()
    results = runner(config, workdir, flags.mode, flags.dump_maps, flags.force, **origin)
    page = 'sweep.html' if ablation else 'report.html'
    print(f'Report: {os.path.expanduser(workdir).rstrip("/")}/{page}', flush=True)
  return 1 if results['failed'] else 0


def _compile_only(flags: argparse.Namespace, config: ConfigDict) -> int:
  """Nothing is read, trained or written."""
  if config.sweep.variants:
    raise UserError('--compile-only is for one config, and this is a sweep of several.')
  if flags.mode != 'train':
    raise UserError('--compile-only is for a training; leave --mode out.')
  from memkd_jax.commands import compile_only

  with interrupt.handled():
    compile_only.run(config, flags.compile_only)
  return 0


class _Parser(cli.Parser):
  """Lists the fields of a config as well, which only --help has to look up."""

  def format_help(self) -> str:
    return f'{super().format_help()}\n{_describe_fields()}\n'


def _parser() -> cli.Parser:
  parser = _Parser(
    'train',
    'Trains and evaluates; memkd evaluate scores what is trained already.',
    usage_code=1,
    usage='memkd train [--config=NAME | --good=FOLDER] [--config.FIELD=VALUE ...] [FLAG ...]',
  )
  add = parser.add_argument
  add(
    '--config',
    metavar='NAME',
    help='a file, or a config that comes with the package, for example mvtec or '
    'ablations/memories; with another method mvtec:rd; the demo if left out',
  )
  add(
    '--good',
    metavar='FOLDER|FILE',
    help='good images to learn from, in place of --config: a folder, with its subfolders, a '
    'text file with a path a line, or a CSV with columns path, label, mask, split',
  )
  add(
    '--workdir',
    metavar='DIR',
    help="the run's folder; runs/<data set>, or runs/<name of --good>, if left out; or a place "
    'in a bucket, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER',
  )
  add(
    '--mode',
    default='train',
    metavar='|'.join(_MODES),
    help="'evaluate' scores existing models only",
  )
  on_or_off = argparse.BooleanOptionalAction
  add(
    '--force',
    action=on_or_off,
    default=False,
    help='train anew, and replace the models of these categories that are there',
  )
  add(
    '--warm-start',
    metavar='OLDRUN',
    help="go on from another run's trained models, whose folder this is, or from the one model "
    'that lies there; with a --workdir of its own',
  )
  add(
    '--dump-maps',
    action=on_or_off,
    default=False,
    help='write the maps of what is scored to DIR/anomaly_maps, as float32 TIFFs',
  )
  add(
    '--profile',
    action=on_or_off,
    default=False,
    help='write a trace of a few steps of each training to its folder, profile/',
  )
  add(
    '--compile-only',
    nargs='?',
    const='',
    metavar='TOPOLOGY',
    help='train nothing: compile the training step and the scoring, without data, and print '
    'their FLOPs, memory and collectives; for the devices at hand, or for TPUs that need not '
    'be there, v5e-8 or v5e:2x4 for example',
  )
  add(
    '--deterministic',
    action=on_or_off,
    default=False,
    help='the same bits in every run, also on a GPU; slower there',
  )
  add(
    '--coordinator',
    metavar='auto|HOST:PORT',
    help='where several processes run together: auto (TPU pod slice, SLURM, Open MPI), or '
    'the address of process 0',
  )
  add(
    '--process-count',
    type=int,
    metavar='N',
    help='with --coordinator=HOST:PORT: number of processes',
  )
  add(
    '--process-id',
    type=int,
    metavar='N',
    help='with --coordinator=HOST:PORT: which of them this is, from 0',
  )
  return parser


def _describe_fields() -> str:
  """Every field of a config: those of MemKD, then what other methods have beside them."""
  parts = [f'fields of --config:\n{base.describe(methods.fields("memkd"))}']
  for names, own in methods.own_fields():
    parts.append(f'of --config=NAME:{" or :".join(names)}:\n{base.describe(own)}')
  return '\n\n'.join(parts)


if __name__ == '__main__':
  cli.start(main)
