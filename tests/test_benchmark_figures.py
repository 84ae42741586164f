"""Whole runs on benchmarks with figures, masks or validation images of their own."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tifffile
from benchmark_layouts import LAYOUTS
from PIL import Image
from quick import rows_of

from memkd_jax import metrics
from memkd_jax.data import datasets
from memkd_jax.data.benchmarks import mvtec_loco
from memkd_jax.data.masks import decode_mask, decode_regions
from memkd_jax.data.sample import LayeredMask, Saturation
from memkd_jax.data.tfds import builder, source
from memkd_jax.errors import UserError
from memkd_jax.run import run_config
from memkd_jax.scoring import external_maps

pytestmark = pytest.mark.newest

KINDS = ('logical_anomalies', 'structural_anomalies')


@pytest.fixture(scope='module')
def loco(tmp_path_factory, make_quick_config):
  """(results, folder of the run, folder of the data, config)."""
  root = tmp_path_factory.mktemp('loco')
  LAYOUTS['mvtec_loco'](root / 'data', ('pushpins',))
  config = make_quick_config(root / 'data')
  config.data.dataset, config.data.categories = 'mvtec_loco', 'pushpins'
  config.train.calibration, config.eval.resolution = 'validation', 'original'
  results = run_config(config, root / 'run', dump_maps=True)
  return results, root / 'run', root / 'data', config


def overlap_of(root, maps, kind):
  """A kind's images and the normal ones, collected from the files themselves."""
  saturation = {255: lambda area: min(20, area), 245: lambda area: int(0.5 * area)}
  overlaps = metrics.SaturatedOverlaps()
  for folder in ('good', kind):
    for path in sorted((root / 'pushpins' / 'test' / folder).iterdir()):
      map_ = tifffile.imread(maps / 'test' / folder / f'{path.stem}.tiff')
      layers = sorted((root / 'pushpins/ground_truth' / folder / path.stem).glob('*.png'))
      regions = [np.asarray(Image.open(layer)) for layer in layers]
      areas = [
        saturation.get(int(region.max()), lambda area: area)(int((region > 0).sum()))
        for region in regions
      ]
      overlaps.add(map_, regions, areas, '' if folder == 'good' else kind)
  return overlaps


def test_figures_of_loco_are_those_of_its_files(loco):
  results, folder, data, _ = loco
  figures, kinds = results['categories']['pushpins'], results['defects']['pushpins']
  assert list(kinds) == list(KINDS)
  maps = folder / 'anomaly_maps' / 'seed_0' / 'pushpins'
  for kind in KINDS:
    area = overlap_of(data, maps, kind).area([0.3, 0.05], kind)
    assert kinds[kind]['P-sPRO'] == pytest.approx(area[0.3], abs=1e-9)
    assert kinds[kind]['P-sPRO5'] == pytest.approx(area[0.05], abs=1e-9)
  for name, of in (('I-mAUC', 'I-AUC'), ('P-sPRO', 'P-sPRO'), ('P-sPRO5', 'P-sPRO5')):
    assert figures[name] == pytest.approx(np.mean([kinds[kind][of] for kind in KINDS]))
  assert figures.keys() >= {'I-AUC', 'P-AUC', 'P-PRO'}


def test_maps_of_others_are_scored_in_the_same_way(loco):
  results, folder, data, _ = loco
  maps = folder / 'anomaly_maps' / 'seed_0'
  found = external_maps.score_category(maps, data, 'pushpins', 'mvtec_loco')
  ours = results['categories']['pushpins']
  for name in ('P-sPRO', 'P-sPRO5', 'P-AUC', 'P-PRO'):
    assert found['metrics'][name] == pytest.approx(ours[name], abs=1e-9)
  kinds = results['defects']['pushpins']
  assert found['per_defect'][KINDS[0]]['P-sPRO5'] == pytest.approx(kinds[KINDS[0]]['P-sPRO5'])


def test_thresholds_come_from_the_validation_images(loco):
  _, folder, _, _ = loco
  scores = (folder / 'pushpins/seed_0/scores.csv').read_text()
  assert scores.count('held out') == 2
  assert 'validation/good/000.png' in scores
  result = json.loads((folder / 'pushpins/seed_0/result.json').read_text())
  assert result['counts']['train'] == 9  # all of them
  assert len(result['images']['train']) == 11
  assert any('2 validation images instead of 69' in note for note in result['notes'])


def test_at_the_models_size_there_is_no_saturated_overlap(loco, tmp_path):
  config = loco[3].copy_and_resolve_references()
  config.eval.resolution = 'model'
  results = run_config(config, tmp_path / 'run')
  assert 'P-sPRO' not in results['mean'] and 'I-mAUC' in results['mean']
  assert any('add --config.eval.resolution=original' in note for note in results['notes'])


def test_validation_images_that_are_learned_from_are_named(loco, tmp_path):
  shutil.copytree(loco[2], tmp_path / 'data')
  images = tmp_path / 'data/pushpins'
  shutil.copy(images / 'train/good/003.png', images / 'validation/good/001.png')
  config = loco[3].copy_and_resolve_references()
  config.data.dir = str(tmp_path / 'data')
  notes = run_config(config, tmp_path / 'run')['notes']
  said = '1 validation image is a training image as well, and makes the threshold too low'
  assert any(said in note and 'validation/good/001.png' in note for note in notes)


def test_a_mask_of_no_known_defect_is_told_before_anything_is_learned(loco, tmp_path, capsys):
  shutil.copytree(loco[2], tmp_path / 'data')
  layer = tmp_path / 'data/pushpins/ground_truth/logical_anomalies/000/000.png'
  values = np.asarray(Image.open(layer))
  Image.fromarray(np.where(values > 0, 7, 0).astype(np.uint8)).save(layer)
  config = loco[3].copy_and_resolve_references()
  config.data.dir = str(tmp_path / 'data')
  results = run_config(config, tmp_path / 'run')
  assert 'marks defects as [7], not as one of' in results['failed']['pushpins']
  assert not (tmp_path / 'run/pushpins/seed_0/model.json').exists()


def test_a_directory_prepared_without_validation_images_stays(loco, tmp_path, monkeypatch):
  before = dataclasses.replace(datasets.DATASETS['mvtec_loco'], has_validation=False)
  with monkeypatch.context() as patch:
    patch.setitem(datasets.DATASETS, 'mvtec_loco', before)
    builder.prepare('mvtec_loco', 'pushpins', loco[2], str(tmp_path))
  builder.prepare('mvtec_loco', 'pushpins', loco[2], str(tmp_path))
  assert len(source.list_samples(str(tmp_path), 'mvtec_loco', 'pushpins', 'train')) == 9
  with pytest.raises(UserError, match='was prepared without validation images; remove it'):
    source.list_samples(str(tmp_path), 'mvtec_loco', 'pushpins', 'validation')


def test_without_validation_images_a_run_is_refused(make_quick_config, tmp_path):
  config = make_quick_config(tmp_path)
  config.train.calibration = 'validation'
  (tmp_path / 'bolt/train/good').mkdir(parents=True)
  with pytest.raises(UserError, match=r'folder has no images for it; these have: .*mvtec_loco'):
    run_config(config, tmp_path / 'run')


def test_prepared_masks_have_their_layers(loco, tmp_path):
  root = loco[2]
  builder.prepare('mvtec_loco', 'pushpins', root, str(tmp_path))
  for split in ('train', 'validation', 'test'):
    plain = mvtec_loco.list_samples(root, 'pushpins', split)
    prepared = source.list_samples(str(tmp_path), 'mvtec_loco', 'pushpins', split)
    assert [s.id for s in prepared] == [s.id for s in plain]
    for ours, theirs in zip(prepared, plain, strict=True):
      assert (ours.mask is None) == (theirs.mask is None)
      if ours.mask is not None:
        for a, b in zip(decode_regions(ours.mask), decode_regions(theirs.mask), strict=True):
          np.testing.assert_array_equal(a[0], b[0])
          assert a[1] == b[1]
        np.testing.assert_array_equal(decode_mask(ours.mask), decode_mask(theirs.mask))


def write(path, values):
  Image.fromarray(np.array(values, np.uint8)).save(path)
  return path


def test_layers_may_overlap_and_have_an_area_each(tmp_path):
  first = write(tmp_path / '000.png', [[9, 9, 9, 0], [0, 0, 0, 0]])
  second = write(tmp_path / '001.png', [[0, 7, 7, 7], [0, 0, 0, 7]])
  mask = LayeredMask((first, second), (Saturation(9, 2, False), Saturation(7, 0.5, True)))
  (a, area_a), (b, area_b) = decode_regions(mask)
  assert (a.sum(), area_a, b.sum(), area_b) == (3, 2, 4, 2)
  assert decode_mask(mask).sum() == 5
  assert Saturation(9, 20, False).area(3) == 3 and Saturation(9, 0.01, True).area(3) == 1
  for values in ([[9, 7]], [[0, 8]], [[0, 0]]):
    bad = dataclasses.replace(mask, layers=(write(tmp_path / '002.png', values),))
    with pytest.raises(UserError, match=r'002\.png marks defects as .* not as one of \[7, 9\]'):
      decode_mask(bad)
  other = dataclasses.replace(mask, layers=(first, write(tmp_path / '003.png', [[9, 9]])))
  with pytest.raises(UserError, match=r'003\.png is of another size than'):
    decode_mask(other)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    ('{}', 'it lists no defects'),
    ('[3]', 'an entry is no object'),
    ('[{"pixel_value": 300}]', 'pixel_value is 300'),
    ('[{"pixel_value": 3, "relative_saturation": 1}]', 'relative_saturation of 3 is 1'),
    (
      '[{"pixel_value": 3, "relative_saturation": true, "saturation_threshold": 1.5}]',
      'saturation_threshold of 3 is 1.5',
    ),
    ('nonsense', 'Expecting value'),
    (None, 'There is no .*defects_config.json'),
  ],
)
def test_a_damaged_list_of_defects_is_named(tmp_path, content, reason):
  LAYOUTS['mvtec_loco'](tmp_path, ('pushpins',))
  path = tmp_path / 'pushpins' / 'defects_config.json'
  path.unlink()
  if content is not None:
    path.write_text(content)
  with pytest.raises(UserError, match=reason):
    mvtec_loco.list_samples(tmp_path, 'pushpins', 'test')
  assert mvtec_loco.list_samples(tmp_path, 'pushpins', 'train')


def test_objects_with_several_images_are_scored_as_objects(
  make_quick_config, make_category, tmp_path, monkeypatch
):
  def object_of(sample):
    return f'{sample.defect} {int(sample.stem) // 2}'

  make_category(tmp_path / 'data', good=4, bad=4)
  several = dataclasses.replace(datasets.DATASETS['folder'], object_of=object_of)
  monkeypatch.setitem(datasets.DATASETS, 'folder', several)
  results = run_config(make_quick_config(tmp_path / 'data'), tmp_path / 'run')
  highest = {}
  for row in rows_of(tmp_path / 'run', 'bolt'):
    if row['split'] == 'test':
      key = row['defect'], int(row['image'].split('/')[-1][:3]) // 2
      highest[key] = max(highest.get(key, 0.0), float(row['score']))
  good = [score for (defect, _), score in highest.items() if defect == 'good']
  bad = [score for (defect, _), score in highest.items() if defect != 'good']
  assert len(good) == len(bad) == 2
  expected = np.mean([(b > g) + 0.5 * (b == g) for b in bad for g in good])
  assert results['categories']['bolt']['S-AUC'] == pytest.approx(expected)
