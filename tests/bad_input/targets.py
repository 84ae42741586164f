"""All targets by name."""

from bad_input import pictures
from bad_input.image_targets import Folders, Images, Maps, Pictures
from bad_input.inspection_targets import DagmLabels, RealIadSplit
from bad_input.model_targets import ModelArrays, ModelFacts, Thresholds
from bad_input.override_target import Overrides
from bad_input.target import Target
from bad_input.text_targets import (
  EyecandiesMetadata,
  Log,
  Results,
  RunConfig,
  VisaSplit,
)
from bad_input.weight_targets import CheckpointFolders, StateDicts, Teachers

TARGETS: dict[str, Target] = {
  target.name: target
  for target in (
    Images('images', pictures.images(), of_masks=False),
    Images('masks', pictures.masks(), of_masks=True),
    Maps('maps'),
    Pictures('pictures'),
    Folders('folders'),
    VisaSplit('visa'),
    EyecandiesMetadata('eyecandies'),
    RealIadSplit('real_iad'),
    DagmLabels('dagm'),
    RunConfig('config_json'),
    ModelFacts('model_json'),
    Thresholds('calibration'),
    ModelArrays('model_arrays'),
    Results('results'),
    Log('log'),
    Overrides('overrides'),
    Teachers('teachers'),
    StateDicts('state_dicts'),
    CheckpointFolders('checkpoints'),
  )
}
