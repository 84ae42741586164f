"""report.html: all of a run on one page, which needs no other file and no network.

This module prepares values; the markup is in report.html.j2 and tables.html.j2.
"""

import base64
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
from ml_collections import ConfigDict

from memkd_jax.config import DEFAULT_DTYPE, Field, flatten, resumable
from memkd_jax.data.decoding import decode
from memkd_jax.data.tiling import describe_size
from memkd_jax.files import atomic
from memkd_jax.report.comparison import Row, compare
from memkd_jax.report.paper import BACKBONE, PaperTable, load_table
from memkd_jax.scoring.calibration import why_undecided
from memkd_jax.scoring.figures import METRICS
from memkd_jax.workdir import Workdir

DATASETS = {
  'mvtec_ad': 'MVTec AD',
  'visa': 'VisA',
  'mpdd': 'MPDD',
  'mvtec_3d': 'MVTec 3D-AD',
  'eyecandies': 'Eyecandies',
  'mvtec_loco': 'MVTec LOCO AD',
  'mvtec_ad_2': 'MVTec AD 2',
  'btad': 'BTAD',
  'ksdd': 'KolektorSDD',
  'ksdd2': 'KolektorSDD2',
  'vad': 'VAD',
  'real_iad': 'Real-IAD',
  'dagm': 'DAGM 2007',
  'demo': 'the demo',
  'folder': 'your own images',
  'folder_3d': 'your own objects',
  'images': 'your own images',
}
_FALSE_ALARM_RATES = (0.1, 0.05, 0.01, 0.001)
# The paper shows these without figures.
_WITHOUT_FIGURES = ('mvtec_3d', 'eyecandies')

TEMPLATES = jinja2.Environment(
  loader=jinja2.PackageLoader('memkd_jax.report', ''),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image as the page holds it.

  Attributes:
    source: a data URL of WebP, which is a fraction of a PNG.
    width: the picture's width in pixels.
    height: the picture's height in pixels.
  """

  source: str
  width: int
  height: int


def write_report(
  workdir: Workdir,
  config: ConfigDict,
  results: dict[str, Any],
  default: ConfigDict,
  fields: Iterable[Field],
) -> Path:
  """Writes report.html.

  Args:
    workdir: holds the pictures and the calibration of each category.
    config: the run's config, with all defaults resolved.
    results: what `results.assemble` returns, and under 'environment' what
      `environment.describe_environment` returns.
    default: the config that the run's method has by default.
    fields: all fields of that method.

  Returns:
    The path of the page.

  Raises:
    UserError: a category's calibration is damaged.
  """
  fields = tuple(fields)
  name = DATASETS.get(results['dataset'], results['dataset'])
  paper = load_table(results['dataset'], results['method'])
  rows = compare(results, paper, config.model.backbone)
  scored = [row for row in rows if row.failure is None]
  categories = [row.label for row in scored if not row.is_mean]
  page = TEMPLATES.get_template('report.html.j2').render(
    title=f'{results["method"]} on {name}',
    config=config,
    size=describe_size(config.data),
    results=results,
    finished=datetime.fromisoformat(results['environment']['finished']),
    remarks=_remarks(config, results, name, paper, _changed(config, default, fields)),
    paper=paper,
    rows=rows,
    scored=scored,
    metrics=[m for m in METRICS if any(m in row.ours for row in rows)] or ['I-AUC'],
    footnotes=_footnotes(rows, paper) if paper else [],
    counts={category: results['counts'][category] for category in categories},
    categories=[_describe_category(workdir, results, category) for category in categories],
    settings=_settings(config, results, fields),
  )
  path = workdir.root / 'report.html'
  atomic.write_text(path, page)
  return path


def read_picture(path: Path) -> Picture | None:
  """Reads an image for the page, None where it is missing or damaged."""
  buffer = io.BytesIO()
  try:
    image = decode(path)
    image.convert('RGB').save(buffer, 'WEBP', quality=82)
  except Exception:  # a picture is no reason to lose the figures
    return None
  data = base64.b64encode(buffer.getvalue()).decode('ascii')
  return Picture(f'data:image/webp;base64,{data}', *image.size)


def _footnotes(rows: Sequence[Row], paper: PaperTable) -> list[str]:
  """The footnotes of the comparison in the order of their first mark, each once."""
  of_columns = [paper.doubts[m] for m in paper.metrics if m in paper.doubts]
  of_rows = [row.notes[m] for row in rows for m in paper.metrics if m in row.notes]
  return list(dict.fromkeys([*of_columns, *of_rows]))


def _remarks(
  config: ConfigDict,
  results: dict[str, Any],
  name: str,
  paper: PaperTable | None,
  changed: Sequence[str],
) -> list[str]:
  """What a reader must know before comparing."""
  remarks = []
  dataset, backbone = results['dataset'], config.model.backbone
  if dataset in _WITHOUT_FIGURES:
    remarks.append(f"The paper's supplementary prints no figures for {name}.")
  elif paper is None and dataset in ('mvtec_ad', 'visa', 'mpdd'):
    remarks.append(f'The paper prints no figures of {results["method"]} on {name}.')
  elif paper is not None and backbone != BACKBONE:
    remark = (
      f"The paper's figures by category are for {BACKBONE}; this run's backbone is {backbone}."
    )
    if backbone in paper.backbones:
      means = ', '.join(f'{m} {value}' for m, value in paper.backbones[backbone].items())
      remark += f" The paper's means for {backbone} (Table 4) are {means}."
    remarks.append(remark)
  if changed:
    remarks.append(f'Other than the defaults: {", ".join(changed)}.')
  return remarks


def _changed(config: ConfigDict, default: ConfigDict, fields: Sequence[Field]) -> list[str]:
  """Fields that change figures and have another value than by default."""
  ours, defaults = _flatten(config), _flatten(default)
  if defaults.get('model.dtype') == DEFAULT_DTYPE:
    defaults['model.dtype'] = 'float32'  # of the paper, wherever the run was made
  ignored = {*resumable(fields), 'data.dataset', 'model.backbone'}
  return [
    f'{path} {_show(ours[path])} (default {_show(value)})'
    for path, value in defaults.items()
    if path in ours and path not in ignored and ours[path] != value
  ]


def _describe_category(
  workdir: Workdir, results: dict[str, Any], category: str
) -> dict[str, Any]:
  """What the page shows of a category, with pictures and thresholds of the first seed.

  Returns:
    {'name', 'figures': {metric: 0..1}, 'pictures': {file: Picture or None},
    'held_out': number of images behind the thresholds, 'thresholds': [(Threshold,
    that of pixels)] at the rates that so many images support, 'undecided': why there are none
    although images were held out, 'decisions': see
    `evaluate.evaluate`, None where nothing was decided}.
  """
  seed, figures = results['seeds'][0], results['categories'][category]
  folder = workdir.category(category, seed)
  counts = results['counts'][category]
  files = ['curves.png']
  if counts['test_normal'] or counts['test_anomalous']:
    files.append('figure.png')
  files += [file for file in ('held_out.png', 'memory.png') if (folder / file).exists()]
  calibration = workdir.read_calibration(category, seed)
  thresholds = []
  if calibration is not None and calibration.default_rate() is not None:
    rates = [rate for rate in _FALSE_ALARM_RATES if rate >= calibration.smallest_rate]
    thresholds = [(calibration.threshold(r), calibration.pixel_threshold(r)) for r in rates]
  return {
    'name': category,
    'figures': {m: figures[m] for m in METRICS if m in figures},
    'pictures': {file: read_picture(folder / file) for file in files},
    'held_out': len(calibration.scores) if calibration else 0,
    'thresholds': thresholds,
    'undecided': '' if thresholds or calibration is None else why_undecided(calibration),
    'decisions': (workdir.read_result(category, seed) or {}).get('decisions'),
  }


def _settings(
  config: ConfigDict, results: dict[str, Any], fields: Sequence[Field]
) -> dict[str, dict[str, Any]]:
  """The run, its versions and its config: {caption: {name: value}}."""
  environment = results['environment']
  run = {
    'finished': environment['finished'],
    'this command took': timedelta(seconds=round(environment['seconds'])),
    'seeds': ', '.join(map(str, results['seeds'])),
    **{f'device {key}': value for key, value in environment['device'].items()},
  }
  settings = {'run': run, 'versions': environment['versions']}
  renamed = {field.name for field in fields if not field.help}
  for path, value in _flatten(config).items():
    section, _, name = path.rpartition('.')
    # A sweep says what led to this config, not what it is.
    if section != 'sweep' and path not in renamed:
      settings.setdefault(section or 'config', {})[name] = _show(value)
  return settings


def _flatten(config: ConfigDict) -> dict[str, Any]:
  return flatten(json.loads(config.to_json()))


def _show(value: Any) -> str:
  if isinstance(value, list):
    return ', '.join(map(str, value)) or 'none'
  return str(value)
