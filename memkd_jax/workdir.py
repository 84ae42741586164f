"""A run's folder: what lies where, and whether a run may go on in it.

config.json                              the resolved config
<category>/seed_<seed>/checkpoints/      the training state
<category>/seed_<seed>/metrics.jsonl     the losses, one object a line
<category>/seed_<seed>/result.json       figures and counts; written last
<category>/seed_<seed>/figure.png        images, ground truth, maps
<category>/seed_<seed>/curves.png        ROC and the like, histogram of the scores
<category>/seed_<seed>/calibration.json  scores of held-out normal images, if any
<category>/seed_<seed>/memory.*          how the memories are used, where there are any
anomaly_maps/seed_<seed>/<category>/     test/<defect>/<id>.tiff, with --dump-maps
results.json, results.md, report.html    all categories together
.lock                                    held by the one process that may write here
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax.config import RESUMABLE_FIELDS, flatten, get_config
from memkd_jax.errors import UserError
from memkd_jax.files import atomic, lock
from memkd_jax.files.digest import DIGEST, check_result, digest
from memkd_jax.files.reading import read_json


class Workdir:
  """Paths of a run's folder."""

  def __init__(self, root: Path | str):
    """Takes a local folder, which may be missing.

    Raises:
      UserError: it is of a bucket, where nothing can be locked, appended or renamed.
    """
    if '://' in str(root):
      raise UserError(
        f'--workdir={root}: a run needs a local folder; mount the bucket, or copy the folder '
        'there when the run has ended.'
      )
    self.root = Path(root).expanduser()

  @contextmanager
  def locked(self) -> Iterator[None]:
    """Keeps other processes out, and removes what killed ones left half written.

    Raises:
      UserError: another process is at work here, or the folder cannot be written.
    """
    with lock.hold(self.root):
      # Not all folders below: there may be another run among them.
      below = ('*/seed_*', 'anomaly_maps/seed_*/*/test/*')
      folders = [folder for pattern in below for folder in self.root.glob(pattern)]
      atomic.remove_orphans([self.root, *folders])
      yield

  def category(self, category: str, seed: int) -> Path:
    """The folder of one category's run."""
    return self.root / category / f'seed_{seed}'

  def maps(self, category: str, seed: int) -> Path:
    """The folder of one category's maps, in the layout of MVTec's evaluation script."""
    return self.root / 'anomaly_maps' / f'seed_{seed}' / category

  def check_exists(self) -> None:
    """Raises UserError where there is no run to evaluate."""
    if not (self.root / 'config.json').exists():
      raise UserError(f'{self.root} holds no run to evaluate; name its folder with --workdir.')

  def read_config(self) -> ConfigDict:
    """The config of the run that is here, as `claim` wrote it.

    Returns:
      It, with the fields that did not exist then at their defaults; and
      `model.teacher_sha256`.

    Raises:
      UserError: there is none, or it is damaged.
    """
    self.check_exists()
    path = self.root / 'config.json'
    try:
      content = read_json(path)
      # Runs of the first version have no checksum.
      if content.pop(DIGEST, digest(content)) != digest(content):
        raise ValueError('its checksum is wrong')
      fields = flatten(content)
      # The fields of an ablation say what led to a config, not what it is.
      fields = {name: value for name, value in fields.items() if not name.startswith('sweep.')}
      config = get_config()
      with config.unlocked():
        config.model.teacher_sha256 = ''
      if unknown := fields.keys() - flatten(config.to_dict()).keys():
        raise ValueError(f'it has no field {sorted(unknown)[0]}')
      config.update_from_flattened_dict(
        {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
      )
      return config
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
      reason = ' '.join(str(error).split())
      raise UserError(
        f'{path} is damaged ({reason}); the command that trained there writes it again.'
      ) from error

  def claim(self, config: ConfigDict) -> None:
    """Writes config.json, or checks that the one there would give the same figures.

    Raises:
      UserError: it would not; the message shows the fields that differ. Or the
        folder cannot be written.
    """
    path = self.root / 'config.json'
    new = json.loads(config.to_json())
    try:
      if path.exists():
        self._check_same(path, new)
      atomic.write_json(path, new | {DIGEST: digest(new)})
    except OSError as error:
      where = f'{path}, ' if path.exists() else ''
      raise UserError(
        f'Cannot use {self.root} as --workdir: {where}{error.strerror}.'
      ) from error

  def read_result(self, category: str, seed: int) -> dict[str, Any] | None:
    """What `write_result` wrote, None where the category is not finished."""
    path = self.category(category, seed) / 'result.json'
    if not path.exists():
      return None
    try:
      return check_result(read_json(path))
    except ValueError as error:
      raise UserError(f'{path} is damaged ({error}); remove it to score again.') from error

  def write_result(self, category: str, seed: int, result: dict[str, Any]) -> None:
    """Marks a category as finished.

    Args:
      category: its name.
      seed: of the run.
      result: JSON values, 'metrics' and 'counts' among them.
    """
    signed = result | {DIGEST: digest(result)}
    atomic.write_json(self.category(category, seed) / 'result.json', signed)

  def finished(self, seed: int) -> list[str]:
    """Names of the categories that have a result, sorted."""
    return sorted(p.parent.parent.name for p in self.root.glob(f'*/seed_{seed}/result.json'))

  def _check_same(self, path: Path, new: dict[str, Any]) -> None:
    try:
      # A field that did not exist then had the value that is its default now.
      defaults = flatten(json.loads(get_config().to_json()))
      old = defaults | flatten(read_json(path))
      old.pop(DIGEST, None)  # every field is compared
    except (ValueError, AttributeError, RecursionError) as error:
      raise UserError(f'{path} is damaged ({error}); choose another --workdir.') from error
    flat = flatten(new)
    differences = [
      f'{field} is {json.dumps(old.get(field))} there and {json.dumps(flat.get(field))} now'
      for field in sorted(old.keys() | flat.keys())
      if field not in RESUMABLE_FIELDS and old.get(field) != flat.get(field)
    ]
    if differences:
      raise UserError(
        f'{self.root} holds a run with another config: {"; ".join(differences)}. '
        'Choose another --workdir, or give the same values.'
      )
