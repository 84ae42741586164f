"""A run's folder: what lies where, and whether a run may go on in it.

config.json                              the resolved config
<task>/seed_<seed>/model.safetensors     the trained model: its arrays
<task>/seed_<seed>/model.json            what they mean, config, threshold; written last
<task>/seed_<seed>/checkpoints/          the training state, until the model is there
<task>/seed_<seed>/folds/                further models for the threshold, likewise
<task>/seed_<seed>/tiles/                with data.tile_models=position the models of the
                                         places, likewise; their logs stay
<task>/seed_<seed>/metrics.jsonl         the losses, one object a line
<task>/seed_<seed>/parameters.txt        every array of the model, its shape and size
<task>/seed_<seed>/plateau.jsonl         those of watched images, with train.stop=plateau
<task>/seed_<seed>/result.json           figures and counts; written last
<task>/seed_<seed>/figure.png            images, ground truth, maps
<task>/seed_<seed>/curves.png            ROC and the like, histogram of the scores
<task>/seed_<seed>/scores.csv             what each image got
<task>/seed_<seed>/cases/                the same test images whatever the method, their maps
<task>/seed_<seed>/memory.*              how the memories are used, where there are any
anomaly_maps/seed_<seed>/<task>/         test/<defect>/<id>.tiff, with --dump-maps
results.json, results.md, report.html    all tasks together
.lock                                    held by the one process that may write here
.lease/<number>.json                     the same in a bucket, see `lease`

A task is a category, as a rule.
"""

from memkd_jax.workdir.folder import ORIGIN, Workdir
from memkd_jax.workdir.mirror import copy_of_models, local_folder, opened
from memkd_jax.workdir.model import (
  UNFOLDING,
  TrainedModel,
  damage_explained,
  read_model_folder,
  write_calibration,
  write_threshold,
)
from memkd_jax.workdir.shared import SharedWorkdir, read_model_in_all

__all__ = [
  'ORIGIN',
  'UNFOLDING',
  'SharedWorkdir',
  'TrainedModel',
  'Workdir',
  'copy_of_models',
  'damage_explained',
  'local_folder',
  'opened',
  'read_model_folder',
  'read_model_in_all',
  'write_calibration',
  'write_threshold',
]
