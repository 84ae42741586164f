"""Whole runs of a second, for tests of what is around the learning."""

import csv
import json

from memkd_jax import main

# The quickest method of all, on a teacher of a few thousand numbers.
QUICK = (
  '--config=folder:knn',
  '--config.model.backbone=tiny_basic',
  '--config.model.teacher_weights=random',
  '--config.data.image_size=32',
  '--config.method.share=1.0',
)


def train(tmp_path, *flags, out='run'):
  workdir = tmp_path / out
  code = main.main([*QUICK, f'--workdir={workdir}', *flags])
  return code, workdir


def result_of(workdir, category):
  return json.loads((workdir / category / 'seed_0' / 'result.json').read_text())


def rows_of(workdir, category):
  with (workdir / category / 'seed_0' / 'scores.csv').open(newline='') as file:
    return list(csv.DictReader(file))
