"""Runs of MLflow, on the server that MLFLOW_TRACKING_URI names."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memkd_jax.errors import UserError
from memkd_jax.trackers.tracker import Place, import_package

_NAME = 'mlflow'
# MLflow's own would try for minutes before it says that a server is away, and a training
# would wait for it.
_PATIENCE = {'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '2', 'MLFLOW_HTTP_REQUEST_TIMEOUT': '30'}


class MLflow:
  """A run for each model, in the experiment of MLFLOW_EXPERIMENT_NAME, or the workdir's name.

  A training that resumes, and the evaluation, go on with the same run.
  """

  def __init__(self, place: Place):
    """Begins a run, or goes on with the one that the model has already."""
    self._client = _client()
    self._step = place.step
    found = place.read_id(_NAME)
    if found is None:
      experiment = os.environ.get('MLFLOW_EXPERIMENT_NAME', place.experiment)
      found = self._client.create_run(
        self._experiment(experiment),
        run_name=place.name,
        tags={'memkd.folder': str(place.folder)},
      ).info.run_id
      place.write_id(_NAME, found)
    else:
      self._client.update_run(found, status='RUNNING')
    self._run: str = found
    self._describe(place.texts())

  @staticmethod
  def check() -> None:
    """Raises UserError where MLflow is missing, or its server is away."""
    try:
      _client().search_experiments(max_results=1)
    except UserError:
      raise
    except Exception as error:
      where = os.environ.get('MLFLOW_TRACKING_URI', 'no MLFLOW_TRACKING_URI is set')
      reason = (str(error).splitlines() or [type(error).__name__])[0]
      raise UserError(
        f'--config.train.trackers=mlflow: MLflow cannot be reached ({where}: {reason}); start '
        '`mlflow server`, and set MLFLOW_TRACKING_URI=http://127.0.0.1:5000.'
      ) from error

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends the figures of one training step."""
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    metrics = [Metric(_allowed(name), value, now, step) for name, value in values.items()]
    self._client.log_batch(self._run, metrics=metrics)

  def finish(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
    """Sends the figures, and the pictures as artifacts."""
    self.write(self._step, figures)
    for path in pictures.values():
      self._client.log_artifact(self._run, str(path), 'pictures')
    self._client.set_terminated(self._run)

  def close(self) -> None:
    """All is sent at once; a run that was not evaluated stays RUNNING until it is."""

  def _experiment(self, name: str) -> str:
    """The number of an experiment, which is made where there is none."""
    found = self._client.get_experiment_by_name(name)
    if found is not None:
      return str(found.experiment_id)
    try:
      return str(self._client.create_experiment(name))
    except Exception:  # another process was first
      found = self._client.get_experiment_by_name(name)
      if found is None:
        raise
      return str(found.experiment_id)

  def _describe(self, fields: Mapping[str, str]) -> None:
    """Sends the fields that the run has not; what has changed since is a tag beside it."""
    from mlflow.entities import Param, RunTag

    known = self._client.get_run(self._run).data.params
    params = [Param(n, value) for n, value in fields.items() if n not in known]
    changed = {n: v for n, v in fields.items() if n in known and known[n] != v}
    tags = [RunTag(f'now.{name}', value) for name, value in changed.items()]
    for i in range(0, len(params), 100):  # as many as a request may have
      self._client.log_batch(self._run, params=params[i : i + 100])
    if tags:
      self._client.log_batch(self._run, tags=tags)


def _allowed(name: str) -> str:
  """A metric's name without what MLflow refuses in names: P-PRO(0.3) and the like."""
  return ''.join(c if c.isalnum() or c in '_-. /' else '_' for c in name)


def _client() -> Any:
  for name, value in _PATIENCE.items():
    os.environ.setdefault(name, value)
  return import_package('mlflow', _NAME).MlflowClient()
