"""MemKD: memory-guided knowledge distillation for visual anomaly detection, in JAX.

detector = memkd_jax.load('runs/mine', category='bottle')
result = detector(images)
result.maps, result.scores, result.decisions
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from memkd_jax.detector import Detector, Result, load

__version__ = '0.1.0'
__all__ = ['Detector', 'Result', 'load']


def __getattr__(name: str) -> Any:
  # Not before it is asked for: memkd_jax.metrics needs no JAX. By its name, because every
  # room knows this file, and would know the detector with it.
  if name in __all__:
    return getattr(importlib.import_module('memkd_jax.detector'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
