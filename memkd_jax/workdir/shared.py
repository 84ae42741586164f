"""A run's folder as all processes of a run see it."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax.files import model
from memkd_jax.runtime import hosts
from memkd_jax.workdir.folder import Workdir
from memkd_jax.workdir.model import (
  Ranges,
  TrainedModel,
  damage_explained,
  parse_model,
  read_warm_start,
)


class SharedWorkdir:
  """A `Workdir` that only the main one of several processes reads and writes.

  The folder need not be seen by the others: what is read there is sent to them. All
  processes make the same calls in the same order, and an error of one is one of all.

  Attributes:
    own: the folder, for what the main process alone does.
  """

  def __init__(self, root: Path | str):
    """See `Workdir`."""
    with hosts.raise_together():
      self.own = Workdir(root)

  def locked(self) -> AbstractContextManager[None]:
    """See `Workdir.locked`."""
    return hosts.held_by_main(self.own.locked())

  def check_exists(self) -> None:
    """See `Workdir.check_exists`."""
    hosts.on_main(self.own.check_exists)

  def claim(
    self,
    config: ConfigDict,
    free: Collection[str],
    rescored: Collection[str],
    defaults: Mapping[str, Any],
  ) -> None:
    """See `Workdir.claim`."""
    hosts.on_main(lambda: self.own.claim(config, free, rescored, defaults))

  def category(self, name: str, seed: int) -> Path:
    """See `Workdir.category`."""
    return self.own.category(name, seed)

  def read_images(self, name: str, seed: int) -> dict[str, dict[str, str]] | None:
    """Digests of the images that a result is of, by split; None where there is no result."""

    def read() -> dict[str, dict[str, str]] | None:
      result = self.own.read_result(name, seed)
      return None if result is None else result.get('images', {})

    return hosts.on_main(read)

  def forget(self, name: str, seed: int) -> None:
    """See `Workdir.forget`."""
    hosts.on_main(lambda: self.own.forget(name, seed))

  def read_ranges(self, name: str, seed: int) -> Ranges | None:
    """See `Workdir.read_ranges`."""
    found: Any = hosts.on_main(lambda: self.own.read_ranges(name, seed))
    if found is None:
      return None
    bits, depths = found  # of several processes lists, for they exchange JSON
    return bits, depths if isinstance(depths, str) else (float(depths[0]), float(depths[1]))

  def has_model(self, name: str, seed: int) -> bool:
    """See `Workdir.has_model`."""
    return hosts.on_main(lambda: self.own.has_model(name, seed))

  def read_model(self, name: str, seed: int) -> TrainedModel:
    """See `Workdir.read_model`."""
    return read_model_in_all(self.own.category(name, seed))

  def read_warm_start(self, name: str, seed: int) -> str | None:
    """See `workdir.model.read_warm_start`."""
    return hosts.on_main(lambda: read_warm_start(self.own.category(name, seed)))

  def write_model(self, trained: TrainedModel) -> None:
    """See `Workdir.write_model`."""
    hosts.on_main(lambda: self.own.write_model(trained))

  def write_result(self, name: str, seed: int, result: dict[str, Any]) -> None:
    """See `Workdir.write_result`."""
    hosts.on_main(lambda: self.own.write_result(name, seed, result))


def read_model_in_all(folder: Path) -> TrainedModel:
  """`read_model_folder` in all processes, of a folder that only the main one need see."""
  content = b''
  with hosts.raise_together():
    facts: dict[str, Any] = {}
    if hosts.is_main():
      with damage_explained(folder):
        facts, content = model.read_facts(folder), model.read_bytes(folder)
  facts, content = hosts.exchange(facts)[0], hosts.bytes_from_main(content)
  with hosts.raise_together():
    return parse_model(folder, facts, content)
