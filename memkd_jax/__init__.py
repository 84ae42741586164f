"""MemKD: memory-guided knowledge distillation for visual anomaly detection, in JAX.

detector = memkd_jax.fit('photographs/good', workdir='runs/mine')
result = detector(images)
result.maps, result.scores, result.decisions
detector = memkd_jax.load('runs/mine')
detector = memkd_jax.load_file('mine.onnx')
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from memkd_jax.deploy.from_file import load_file
  from memkd_jax.detector import Detector, load
  from memkd_jax.run import fit
  from memkd_jax.scoring.base import Result

__version__ = '0.1.0'
__all__ = ['Detector', 'Result', 'fit', 'load', 'load_file']

# By name, because every room knows this file, and would know these with it.
_HOMES = {
  'Detector': 'memkd_jax.detector',
  'Result': 'memkd_jax.scoring.base',
  'fit': 'memkd_jax.run',
  'load': 'memkd_jax.detector',
  'load_file': 'memkd_jax.deploy.from_file',
}


def __getattr__(name: str) -> Any:
  if name in _HOMES:  # not before it is asked for: memkd_jax.metrics needs no JAX
    return getattr(importlib.import_module(_HOMES[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
