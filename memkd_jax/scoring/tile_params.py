"""Which of a model's parameters score a tile, where each place of the grid has its own."""

from typing import Any

from memkd_jax.data.tiling import Tiling
from memkd_jax.errors import UserError

NAME = 'tile_{}'  # of a place's parameters among those of the model


def positions_of(params: dict[str, Any]) -> list[int]:
  """The places that have a model, ascending, of what `fit` gave for a model for each."""
  return sorted(int(name.rpartition('_')[2]) for name in params)


def params_of(params: dict[str, Any], tiling: Tiling, position: int) -> Any:
  """What the model has learned that scores the tiles of a place.

  Raises:
    UserError: there is none, since nothing counts there in the training images.
  """
  if not tiling.by_position:
    return params
  if (name := NAME.format(position)) not in params:
    raise UserError(
      f'Tile {position + 1} of an image counts, and did so in no training image; train with '
      '--config.data.tile_models=one, or with another --config.data.roi.'
    )
  return params[name]
