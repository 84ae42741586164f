"""The main job on real photographs; skips without ../shared."""

import csv

import numpy as np
import pytest

from memkd_jax import methods, metrics
from memkd_jax.data import folder
from memkd_jax.data.splits import load_split
from memkd_jax.data.tiling import Tiling
from memkd_jax.evaluate import Scorer
from memkd_jax.methods.base import Task
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers import conversion


@pytest.mark.parametrize(
  ('size', 'epochs', 'auroc'),
  [(128, 3, 0.98), pytest.param(256, 4, 0.99, marks=pytest.mark.slow)],
)
def test_bottle(tmp_path, shared, one_device, make_method, size, epochs, auroc):
  """I-AUC after few epochs, and the map's highest point inside a defect's box."""
  data = shared / 'data' / 'mvtec_ad'
  teacher = tmp_path / 'resnet18.safetensors'
  source = shared / 'weights' / 'resnet18_imagenet_stages123.safetensors'
  conversion.convert(source, 'resnet18', teacher)
  config = methods.get_config()
  config.model.backbone = 'resnet18'
  config.model.teacher_weights = str(teacher)
  config.data.image_size = size
  config.train.epochs = epochs
  method = make_method(config, one_device)
  normal = load_split(folder.list_samples(data, 'bottle', 'train'), (size, size), 2)
  test = load_split(folder.list_samples(data, 'bottle', 'test'), (size, size), 2)
  assert (len(normal.images), test.labels.sum(), len(test.labels)) == (209, 63, 83)
  params = method.fit(Task.of_category('bottle', 0), normal.images, tmp_path).params
  pipeline = Pipeline(method.extractor, method, **config.anomaly_map.to_dict())
  tiling, teacher = Tiling((size, size)), method.extractor.params
  scorer = Scorer(pipeline, tiling, teacher, one_device, config.eval.batch_size)
  maps, scores, _ = scorer(params, test.images)
  assert metrics.auroc(test.labels, scores) >= auroc

  boxes = {}
  with (data / 'bottle_boxes.csv').open(newline='') as file:
    for row in csv.DictReader(file):
      corners = [float(row[c]) for c in ('min_row', 'min_col', 'max_row', 'max_col')]
      boxes.setdefault(row['image'], []).append(np.array(corners) * size / 512)
  assert len(boxes) == 63
  inside = 0
  for name, map_ in zip(test.ids, maps, strict=True):
    row, column = np.unravel_index(map_.argmax(), map_.shape)
    inside += any(
      top <= row + 0.5 <= bottom and left <= column + 0.5 <= right
      for top, left, bottom, right in boxes.get(name, [])
    )
  assert inside / len(boxes) >= 0.85
