import re

import numpy as np
import pytest
from pages import Page
from PIL import Image

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.report.environment import describe_environment
from memkd_jax.report.html import write_report
from memkd_jax.report.results import assemble
from memkd_jax.scoring.calibration import Calibration
from memkd_jax.workdir import Workdir

HOSTILE = '<script>alert(1)</script>'
IMAGE = {'I-AUC': 0.9876, 'I-AP': 0.5, 'I-F1max': 0.5}
FIGURES = IMAGE | {'P-AUC': 0.9, 'P-AP': 0.5, 'P-PRO': 0.945, 'P-F1max': 0.5}
COUNTS = {'train': 1234, 'test_normal': 3, 'test_anomalous': 4}


@pytest.fixture
def write(tmp_path):
  """Writes a report and parses it; each run is {category: figures}."""

  def write(dataset, *runs, method='MemKD', failed=None, notes=(), pictures=True, **model):
    fields = methods.fields('memkd') if method in ('MemKD', 'RD') else base.FIELDS
    default = base.build(fields)
    config = default.copy_and_resolve_references()
    config.seeds = tuple(range(len(runs)))
    config.model.update(model)
    config = base.resolve(config, fields)
    config.data.dataset = dataset
    workdir = Workdir(tmp_path / 'run')
    for category in runs[0] if pictures else ():
      folder = workdir.category(category, 0)
      folder.mkdir(parents=True)
      for name in ('figure.png', 'curves.png'):
        Image.new('RGB', (80, 40), 'red').save(folder / name)
    full = [{c: {'metrics': f, 'counts': COUNTS} for c, f in run.items()} for run in runs]
    results = assemble(dataset, method, config.seeds, full, failed or {}, notes)
    results['environment'] = describe_environment(0.0)
    path = write_report(workdir, config, results, default, fields)
    source = path.read_text(encoding='utf-8')
    return Page(source), source

  return write


def test_figures_stand_beside_the_papers(write):
  page, source = write('mvtec_ad', {'bottle': FIGURES, 'carpet': FIGURES})
  # The paper has I-AUC 100.0, P-AUC 98.8 and P-PRO 97.1.
  assert page.row('bottle') == [
    'bottle', '100.0', '98.8', '−1.2', '98.8', '90.0', '−8.8', '97.1', '94.5', '−2.6',  # noqa: RUF001
  ]  # fmt: skip
  assert page.row('carpet')[:4] == ['carpet', '99.6', '98.8', '−0.8']  # noqa: RUF001
  assert page.row('mean of these 2')[1] == '99.8'
  all_metrics = [r for r in page.rows if r[0] == 'bottle'][1]
  assert all_metrics == ['bottle', '98.8', '50.0', '50.0', '90.0', '50.0', '94.5', '50.0']
  assert page.row('all') == ['all', '2,468', '6', '8']
  assert page.text.index('carpet') < page.text.index('bottle')  # the paper's order
  assert 'class="difference lower"' in source
  assert page.tags.count('img') == 4
  assert 'Other than the defaults' not in page.text


def test_what_made_the_figures_is_told(write):
  page, _ = write('folder', {'bolt': FIGURES}, temperature=0.5)
  assert page.row('learning_rate') == ['learning_rate', '0.005']
  assert page.row('device platform')[1] == 'cpu'
  for name in ('python', 'jax', 'jaxlib', 'flax', 'numpy', 'memkd_jax'):
    assert re.match(r'\d+\.\d+', page.row(name)[1])
  assert 'Other than the defaults: model.temperature 0.5 (default 1.0).' in page.text
  assert 'pixels · 200 epochs · batches of 16 · seed 0 · ' in page.text
  assert page.row('resolution') == ['resolution', 'model']
  assert all(row[0] != 'preset' for row in page.rows)  # a field that was renamed


def test_bfloat16_is_told_wherever_it_is_the_default(write):
  page, _ = write('folder', {'bolt': FIGURES}, dtype='bfloat16')
  assert 'Other than the defaults: model.dtype bfloat16 (default float32).' in page.text


def test_a_method_without_training_has_no_epochs(write):
  page, _ = write('visa', {'candle': FIGURES}, method='SPADE')
  assert 'SPADE on VisA' in page.text
  assert 'pixels · seed 0 · ' in page.text
  assert 'The paper prints no figures of SPADE on VisA.' in page.text
  assert all(row[0] != 'epochs' for row in page.rows)


def test_another_method_of_the_papers_table_is_compared_too(write):
  page, _ = write('mvtec_ad', {'carpet': FIGURES}, method='PatchCore')
  assert "Ours beside the paper's PatchCore (supplementary, Tables 1 and 2)" in page.text
  assert page.row('carpet')[1:4] == ['98.7', '98.8', '+0.1']


def test_nothing_is_loaded_and_names_are_text(write):
  page, source = write(
    'folder', {HOSTILE: IMAGE, '"onload="x': IMAGE}, failed={HOSTILE + '2': HOSTILE}
  )
  assert 'script' not in page.tags
  assert HOSTILE in page.text
  assert HOSTILE not in source
  assert not any(name.startswith('on') for _, name, _ in page.attributes)
  for _, name, value in page.attributes:
    if name in ('src', 'href'):
      assert value.startswith(('data:', '#'))
  assert 'url(' not in source
  assert '@import' not in source
  assert (
    'img',
    'alt',
    f'{HOSTILE}: ROC, precision-recall curves, histogram of image scores',
  ) in (page.attributes)


def test_tables_have_captions_and_scopes(write):
  page, _ = write('visa', {'candle': FIGURES})
  assert page.tags.count('caption') == page.tags.count('table')
  assert all(
    value in ('row', 'col', 'colgroup') for _, name, value in page.attributes if name == 'scope'
  )
  scoped = sum(name == 'scope' for _, name, _ in page.attributes)
  assert scoped == page.tags.count('th')
  assert 'I-AP' in page.text
  assert 'nine of the twelve rows' in page.text
  links = {
    value[1:] for _, name, value in page.attributes if name == 'href' and value[0] == '#'
  }
  assert links <= {value for _, name, value in page.attributes if name == 'id'}


def test_few_held_out_images_are_told_with_what_can_be_done(write, monkeypatch):
  calibration = Calibration(np.arange(3.0), np.linspace(0, 1, 51))
  monkeypatch.setattr(Workdir, 'read_calibration', lambda *_: calibration)
  page, _ = write('mvtec_ad', {'bottle': FIGURES})
  assert '3 held-out images support no false-alarm rate of 10%' in page.text
  assert 'images above' not in page.text


def test_thresholds_are_told(write, monkeypatch):
  calibration = Calibration(np.arange(39.0), np.linspace(0, 1, 51))
  found = {('bottle', 0): calibration}
  monkeypatch.setattr(Workdir, 'read_calibration', lambda _, *which: found.get(which))
  page, _ = write('mvtec_ad', {'bottle': FIGURES, 'carpet': FIGURES})
  assert page.text.count('Thresholds by false-alarm rate') == 1
  assert 'from 39 held-out normal images' in page.text
  assert '10%: images above 35.0000' in page.text
  assert '5%: images above 37.0000' in page.text
  assert '1%: images' not in page.text  # 39 images do not support it


def test_several_seeds(write):
  page, _ = write('mvtec_ad', {'bottle': FIGURES}, {'bottle': FIGURES | {'I-AUC': 0.9676}})
  assert page.row('bottle')[1:4] == ['100.0', '97.8 ± 1.4', '−2.2']  # noqa: RUF001
  assert 'mean ± standard deviation over 2 seeds' in page.text
  assert 'seeds 0, 1' in page.text
  assert 'Pictures are of seed 0' in page.text


def test_failures_and_notes_are_seen(write):
  page, _ = write(
    'mvtec_ad', {'tile': FIGURES}, failed={'wood': 'no images'}, notes=['THEY MEAN NOTHING']
  )
  assert page.row('wood') == ['wood', 'failed: no images']
  assert page.text.index('THEY MEAN NOTHING') < page.text.index('Figures')
  page, _ = write('mvtec_ad', {}, failed={'wood': 'no images'})
  assert page.row('wood') == ['wood', 'failed: no images']


def test_without_masks_there_are_no_pixel_metrics(write):
  page, _ = write('folder', {'bolt': IMAGE})
  assert page.row('bolt') == ['bolt', '98.8', '50.0', '50.0']
  assert 'no ground-truth masks for bolt' in page.text
  assert 'PRO' not in page.text
  assert 'paper' not in page.text


def test_masks_missing_where_the_paper_has_figures(write, tmp_path):
  broken = tmp_path / 'run' / 'bottle' / 'seed_0' / 'figure.png'
  broken.parent.mkdir(parents=True)
  broken.write_bytes(b'no PNG')
  page, _ = write('mvtec_ad', {'bottle': IMAGE}, pictures=False)
  assert page.row('bottle')[4:7] == ['98.8', '–', '–']  # noqa: RUF001
  assert 'curves.png is missing' in page.text
  assert 'figure.png is missing' in page.text


@pytest.mark.parametrize(
  ('dataset', 'changes', 'sentence'),
  [
    ('eyecandies', {}, 'supplementary prints no figures for Eyecandies'),
    ('mvtec_3d', {}, 'supplementary prints no figures for MVTec 3D-AD'),
    ('visa', {'method': 'RD'}, 'The paper prints no figures of RD on VisA'),
    ('mpdd', {'method': 'RD'}, "Ours beside the paper's RD"),
    ('mpdd', {'backbone': 'resnet34'}, "for wide_resnet50_2; this run's backbone is resnet34."),
    ('mvtec_ad', {'backbone': 'resnet34'}, 'for resnet34 (Table 4) are I-AUC 98.8, P-AUC 97.4'),
  ],
)
def test_what_cannot_be_compared_is_told(write, dataset, changes, sentence):
  page, _ = write(dataset, {'tubes': FIGURES}, **changes)
  assert sentence in page.text
