"""report.html: all of a run on one page, which needs no other file and no network."""

import base64
import io
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax import config as base
from memkd_jax.data.decoding import decode
from memkd_jax.files import atomic
from memkd_jax.models.forward import ForwardDistiller
from memkd_jax.models.reverse import ReverseDistiller
from memkd_jax.report.comparison import Row, compare
from memkd_jax.report.paper import BACKBONE, PaperTable, load_table
from memkd_jax.report.tables import (
  Footnotes,
  comparison_table,
  counts_table,
  facts_table,
  metrics_table,
)
from memkd_jax.scoring.calibration import read_calibration
from memkd_jax.scoring.figures import METRICS
from memkd_jax.workdir import Workdir

_NAMES = {
  'mvtec_ad': 'MVTec AD',
  'visa': 'VisA',
  'mpdd': 'MPDD',
  'mvtec_3d': 'MVTec 3D-AD',
  'eyecandies': 'Eyecandies',
  'demo': 'the demo',
  'folder': 'your own images',
}
# By paradigm, and whether memories are built.
_METHODS = {
  ('reverse', True): 'MemKD',
  ('reverse', False): 'RD',
  ('forward', True): 'MemMKD',
  ('forward', False): 'Multiresolution distillation',
}
_RATES = (0.1, 0.05, 0.01, 0.001)  # of false alarms
# The paper shows these without figures.
_WITHOUT_FIGURES = ('mvtec_3d', 'eyecandies')

_MEMORY_HELP = (
  '<p class="remark">Entropy 1: every item of the memory is recalled alike, whatever the '
  'query; 0: one item is recalled alone.</p>'
)

# Nothing is loaded and nothing runs, whatever a name in the report may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(workdir: Workdir, config: ConfigDict, results: dict[str, Any]) -> Path:
  """Writes report.html.

  Args:
    workdir: holds the pictures of each category.
    config: the resolved config.
    results: see `results.assemble`, and 'environment' (`environment.
      describe_environment`).

  Returns:
    Its path.
  """
  name = _NAMES.get(results['dataset'], results['dataset'])
  paradigm, model = config.model.paradigm, config.model
  kind = ForwardDistiller if paradigm == 'forward' else ReverseDistiller
  built = kind.built_memories(tuple(model.stages), tuple(model.memories))
  method = _METHODS[paradigm, bool(built)]
  title = f'{method} on {name}'
  paper = load_table(results['dataset'], method)
  rows = compare(results, paper, config.model.backbone)
  categories = [row.label for row in rows if not row.is_mean and row.failure is None]
  style = (resources.files(__package__) / 'report.css').read_text(encoding='utf-8')
  parts = [
    f'<header><h1>{escape(title)}</h1>\n{_summary(config, results)}</header>',
    _notes(results['notes']),
    '<section>\n<h2>Figures</h2>',
    *_remarks(config, results['dataset'], name, method, paper),
    *_tables(results, rows, method, paper),
    '</section>',
    *_category_sections(workdir, results, categories),
    _settings_section(config, results),
  ]
  body = '\n'.join(part for part in parts if part)
  path = workdir.root / 'report.html'
  atomic.write_text(
    path,
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
    f'<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n',
  )
  return path


def _summary(config: ConfigDict, results: dict[str, Any]) -> str:
  """The run in one line, and when and where it was made."""
  train, size, environment = config.train, config.data.image_size, results['environment']
  device, seeds = environment['device'], results['seeds']
  run = [
    escape(config.model.backbone),
    f'{size} &times; {size} pixels',
    f'{train.epochs} epochs',
    f'batches of {train.batch_size}',
    f'{"seeds" if len(seeds) > 1 else "seed"} {", ".join(map(str, seeds))}',
    f'{device["number"]} &times; {escape(device["kind"])}',
  ]
  finished = environment['finished']
  time = datetime.fromisoformat(finished)
  return (
    f'<p class="run">{" · ".join(run)}</p>\n'
    f'<p class="when"><time datetime="{escape(finished)}">'
    f'{time.day} {time:%B %Y, %H:%M} UTC</time></p>\n'
  )


def _notes(notes: list[str]) -> str:
  if not notes:
    return ''
  return (
    '<aside class="notes" aria-label="Notes">'
    f'{"".join(f"<p>{escape(note)}</p>" for note in notes)}</aside>'
  )


def _tables(
  results: dict[str, Any], rows: Sequence[Row], method: str, paper: PaperTable | None
) -> list[str]:
  over = ''
  if len(results['seeds']) > 1:
    over = f', mean ± standard deviation over {len(results["seeds"])} seeds'
  metrics = [m for m in METRICS if any(m in row.ours for row in rows)] or ['I-AUC']
  tables = []
  scored = [row for row in rows if row.failure is None]
  if paper is None:
    tables.append(metrics_table(f'Our figures in percent{over}', rows, metrics))
  else:
    footnotes = Footnotes()
    caption = (
      f"Ours beside the paper's {method} (supplementary, {paper.source}), in percent{over}"
    )
    tables.append(comparison_table(caption, rows, paper.metrics, paper.doubts, footnotes))
    tables.append(footnotes.html())
    if scored:
      tables.append(metrics_table(f'All our metrics, in percent{over}', scored, metrics))
  counts = {row.label: results['counts'][row.label] for row in scored if not row.is_mean}
  if counts:
    tables.append(counts_table('Images for training, and for the test', counts))
  return tables


def _remarks(
  config: ConfigDict, dataset: str, name: str, method: str, paper: PaperTable | None
) -> list[str]:
  """What a reader must know before comparing."""
  remarks = []
  backbone = config.model.backbone
  if dataset in _WITHOUT_FIGURES:
    remarks.append(f"The paper's supplementary prints no figures for {name}.")
  elif paper is None and dataset in ('mvtec_ad', 'visa', 'mpdd'):
    remarks.append(f'The paper prints no figures of {method} on {name}.')
  elif paper is not None and backbone != BACKBONE:
    remark = (
      f"The paper's figures by category are for {BACKBONE}; this run's backbone is {backbone}."
    )
    if backbone in paper.backbones:
      means = ', '.join(f'{m} {value}' for m, value in paper.backbones[backbone].items())
      remark += f" The paper's means for {backbone} (Table 4) are {means}."
    remarks.append(remark)
  changed = _changed(config)
  if changed:
    remarks.append(f'Other than the defaults: {", ".join(changed)}.')
  return [f'<p class="remark">{escape(remark)}</p>' for remark in remarks]


def _changed(config: ConfigDict) -> list[str]:
  """Fields that change figures and have another value than the paper's."""
  default, ours = (base.flatten(json.loads(c.to_json())) for c in (base.get_config(), config))
  ignored = {*base.RESUMABLE_FIELDS, 'data.dataset', 'model.backbone'}
  return [
    f'{field} {_show(ours[field])} (default {_show(value)})'
    for field, value in default.items()
    if field not in ignored and ours.get(field) != value
  ]


def _category_sections(
  workdir: Workdir, results: dict[str, Any], categories: Sequence[str]
) -> list[str]:
  if not categories:
    return []
  seed = results['seeds'][0]
  links = [
    f'<li><a href="#category-{i}">{escape(category)}</a></li>'
    for i, category in enumerate(categories)
  ]
  several = f' Pictures are of seed {seed}.' if len(results['seeds']) > 1 else ''
  sections = [
    '<h2>Categories</h2>\n<p class="remark">Cases are ordered from the worst mistake to the '
    'safest decision; all maps of a category share one colour scale.'
    f'{several}</p>\n<nav aria-label="Categories"><ul>{"".join(links)}</ul></nav>'
  ]
  for i, category in enumerate(categories):
    figures, counts = results['categories'][category], results['counts'][category]
    folder = workdir.category(category, seed)
    line = ' · '.join(
      [
        *(f'{m} {100 * figures[m]:.1f}' for m in METRICS if m in figures),
        f'{counts["train"]} training images',
        f'{counts["test_normal"]} normal and {counts["test_anomalous"]} anomalous test images',
      ]
    )
    curves = 'ROC, precision-recall' + (' and PRO' if 'P-PRO' in figures else '')
    cases = 'images and anomaly maps of the worst, median and best decisions'
    left = [
      _picture(folder / 'curves.png', f'{category}: {curves} curves, histogram of image scores')
    ]
    if (folder / 'memory.png').exists():
      alt = f'{category}: weights of the items, cosines of feature and recall, entropy'
      left += [_picture(folder / 'memory.png', alt), _MEMORY_HELP]
    left.append(_threshold(folder))
    right = _picture(folder / 'figure.png', f'{category}: {cases}')
    sections.append(
      f'<section class="category" id="category-{i}">\n<h3>{escape(category)}</h3>\n'
      f'<p class="counts">{line}</p>\n<div class="pictures">\n<div>{"".join(left)}</div>\n'
      f'{right}\n</div>\n</section>'
    )
  return sections


def _threshold(folder: Path) -> str:
  """The thresholds of a category that has any, at the rates that its images support."""
  calibration = read_calibration(folder)
  if calibration is None:
    return ''
  rates = [rate for rate in _RATES if rate >= calibration.smallest_rate]
  rows = []
  for rate in rates or [calibration.smallest_rate]:
    threshold = calibration.threshold(rate)
    low, high = threshold.interval
    rows.append(
      f'<li>{100 * rate:.3g}%: images above {threshold.value:.4f} (true rate, with 95% '
      f'confidence, {100 * low:.2g}% to {100 * high:.2g}%), pixels above '
      f'{calibration.pixel_threshold(rate):.4f}</li>'
    )
  number = len(calibration.scores)
  plural = 's' if number > 1 else ''
  return (
    f'<p class="remark">Thresholds by false-alarm rate, from {number} held-out normal '
    f'image{plural}:</p><ul class="remark">{"".join(rows)}</ul>'
  )


def _picture(path: Path, description: str) -> str:
  """An image with its content inside, as WebP, which is a fraction of the PNG."""
  buffer = io.BytesIO()
  try:
    picture = decode(path)
    width, height = picture.size
    picture.convert('RGB').save(buffer, 'WEBP', quality=82)
  except Exception:  # a picture is no reason to lose the figures
    return f'<p class="missing">{escape(path.name)} is missing.</p>'
  data = base64.b64encode(buffer.getvalue()).decode('ascii')
  return (
    f'<img class="{path.stem}" src="data:image/webp;base64,{data}" width="{width}" '
    f'height="{height}" alt="{escape(description)}">'
  )


def _settings_section(config: ConfigDict, results: dict[str, Any]) -> str:
  environment = results['environment']
  run = {
    'finished': environment['finished'],
    'this command took': timedelta(seconds=round(environment['seconds'])),
    'seeds': ', '.join(map(str, results['seeds'])),
    **{f'device {key}': value for key, value in environment['device'].items()},
  }
  tables = [facts_table('run', run), facts_table('versions', environment['versions'])]
  sections: dict[str, dict[str, str]] = {}
  for field, value in base.flatten(json.loads(config.to_json())).items():
    section, _, name = field.rpartition('.')
    if section == 'sweep':  # what led to this config, not what it is
      continue
    sections.setdefault(section or 'config', {})[name] = _show(value)
  tables += [facts_table(section, fields) for section, fields in sections.items()]
  joined = '\n'.join(tables)
  return f'<section>\n<h2>Settings</h2>\n<div class="facts">\n{joined}\n</div>\n</section>'


def _show(value: Any) -> str:
  if isinstance(value, list):
    return ', '.join(map(str, value)) or 'none'
  return str(value)
