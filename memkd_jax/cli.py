"""The flags by which commands name a trained model."""

import argparse

from memkd_jax.detector import Detector, load


def add_model_flags(parser: argparse.ArgumentParser) -> None:
  """Adds --workdir, --category, --seed, --false-alarm-rate and --teacher-weights."""
  add = parser.add_argument
  add('--workdir', required=True, metavar='DIR', help="the run's folder")
  add('--category', metavar='NAME', help='that was trained; may be left out if one alone was')
  add('--seed', type=int, metavar='N', help='of the run; the first of its seeds if left out')
  add(
    '--false-alarm-rate',
    type=float,
    metavar='RATE',
    help='share of normal images that may be called anomalous, which sets the threshold; 0.01, '
    'or the lowest that the held-out images support, if left out',
  )
  add('--teacher-weights', metavar='FILE', help='where the teacher lies now, if it was moved')


def load_named(flags: argparse.Namespace) -> Detector:
  """Loads the model that parsed flags name; raises as `load` does."""
  return load(
    flags.workdir,
    flags.category,
    seed=flags.seed,
    false_alarm_rate=flags.false_alarm_rate,
    teacher_weights=flags.teacher_weights,
  )
