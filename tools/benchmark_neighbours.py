"""The coreset and the nearest neighbours, turn by turn with PyTorch and scikit-learn.

  python tools/benchmark.py --against=scikit-learn,torch

The coreset: 1,000 of 100,000 patches of 384 numbers, after a projection to 128. The nearest
neighbours: the distances of the patches of 32 images, 1,024 each, to a memory of 10,000. All
arrays are float32, and are there before the clock starts.
"""

import statistics
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from other_process import OtherProcess, Works
from turns import Candidate, timed

from memkd_jax.methods.patchcore import projection
from memkd_jax.ops.coreset import k_centres
from memkd_jax.ops.neighbours import nearest_distance
from memkd_jax.report.results import markdown

_CHANNELS, _PROJECTED = 384, 128
_PATCHES, _PICKS = 100_000, 1_000
_QUERIES, _MEMORY = 32 * 1024, 10_000
_STARTING_POINTS = 10  # of the authors' approximation


def make_patches(number: int, seed: int) -> np.ndarray:
  """Rows like a teacher's: of some kinds, with few degrees of freedom, and not negative.

  Returns:
    float32 [number, 384].
  """
  rng = np.random.default_rng(seed)
  shared = np.random.default_rng(0)
  kinds, mixture = shared.normal(size=(64, 16)), shared.normal(size=(16, _CHANNELS))
  latent = kinds[rng.integers(0, len(kinds), number)] + 0.3 * rng.normal(size=(number, 16))
  return np.maximum(latent @ mixture, 0).astype(np.float32)


def compare(
  packages: list[str], take_turns: Callable[[list[Candidate]], dict[str, list[float]]]
) -> dict[str, Any]:
  """Times all candidates, and prints their table.

  Args:
    packages: of 'torch' and 'scikit-learn'.
    take_turns: see `turns.take_turns`.

  Returns:
    JSON values: a line for each candidate, and how far the results agree.

  Raises:
    UserError: a package is not installed.
  """
  patches, queries, memory = (
    make_patches(number, seed)
    for seed, number in enumerate((_PATCHES, _QUERIES, _MEMORY), start=1)
  )
  matrix = projection(_CHANNELS, _PROJECTED, np.random.default_rng(0))
  assert matrix is not None  # there is less to compare by than there is
  ours = _our_works(patches, matrix, queries, memory)
  with ExitStack() as opened:
    candidates = [Candidate(work, 'ours', 1, timed(run)) for work, run in ours.items()]
    agreement: dict[str, float] = {}
    if 'torch' in packages:
      arguments = (patches, matrix, queries, memory)
      torch = opened.enter_context(closing(OtherProcess('torch', _torch_works, *arguments)))
      works = ('coreset', f'coreset, {_STARTING_POINTS} starting points', 'nearest')
      candidates += [Candidate(work, 'torch', 1, torch.times(work)) for work in works]
      same = set(ours['coreset']()) & set(torch.result('coreset'))
      agreement['picks in common with torch'] = len(same)
    if 'scikit-learn' in packages:
      process = OtherProcess('sklearn', _sklearn_works, queries, memory)
      sklearn = opened.enter_context(closing(process))
      candidates.append(Candidate('nearest', 'scikit-learn', 1, sklearn.times('nearest')))
      difference = np.abs(ours['nearest']() - sklearn.result('nearest')).max()
      agreement['largest difference of a distance from scikit-learn'] = float(difference)
    lines = _report(take_turns(candidates))
  rows = [
    [line['name'], f'{line["seconds"]:.2f}', f'{line["ratio"]:.2f}x' if 'ratio' in line else '']
    for line in lines
  ]
  print(markdown(['', 'seconds', 'ours is faster'], rows) + '\n')
  for what, value in agreement.items():
    print(f'{what}: {value:.4g}')
  return {'candidates': lines, 'agreement': agreement}


def _report(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
  """Median seconds of each candidate, and how many times ours takes for the same work."""
  seconds = {name: 1 / statistics.median(values) for name, values in rates.items()}
  lines = []
  for name, values in rates.items():
    line = {'name': name, 'seconds': seconds[name], 'turns': [1 / rate for rate in values]}
    ours = f'{name.partition(",")[0]}, ours'
    if 'ours' not in name and ours in seconds:
      line['ratio'] = seconds[name] / seconds[ours]
    lines.append(line)
  return lines


def _our_works(
  patches: np.ndarray, matrix: np.ndarray, queries: np.ndarray, memory: np.ndarray
) -> Works:
  on_device = [jnp.asarray(x) for x in (patches, queries, memory)]
  find = jax.jit(nearest_distance, static_argnums=2)

  def coreset() -> np.ndarray:
    projected = jnp.matmul(on_device[0], matrix, precision='highest')
    return k_centres(projected, _PICKS, 0)

  def nearest(products: str) -> np.ndarray:
    return np.asarray(find(*on_device[1:], products))

  return {
    'coreset': coreset,
    'nearest': lambda: nearest('float32'),
    'nearest, bfloat16': lambda: nearest('bfloat16'),
  }


def _torch_works(
  patches: np.ndarray, matrix: np.ndarray, queries: np.ndarray, memory: np.ndarray
) -> Works:
  """The published loops: a pass over all patches for each pick."""
  import torch

  patches, matrix, queries, memory = (
    torch.from_numpy(x) for x in (patches, matrix, queries, memory)
  )

  def coreset() -> np.ndarray:
    projected, picked = patches @ matrix, [0]
    nearest = torch.linalg.norm(projected - projected[0], dim=1)
    while len(picked) < _PICKS:
      picked.append(int(torch.argmax(nearest)))
      distances = torch.linalg.norm(projected - projected[picked[-1]], dim=1)
      nearest = torch.minimum(nearest, distances)
    return np.array(picked)

  def approximate_coreset() -> np.ndarray:
    """Begins with the mean distance from a few; distances by products."""
    projected = patches @ matrix
    norms = (projected**2).sum(1, keepdim=True)

    def distances_from(centres: Any) -> Any:
      squared = norms - 2 * (projected @ centres.T) + (centres**2).sum(1)
      return squared.clamp(min=0).sqrt()

    start = torch.randperm(len(projected))[:_STARTING_POINTS]
    picked: list[int] = []
    nearest = distances_from(projected[start]).mean(1)
    while len(picked) < _PICKS:
      picked.append(int(torch.argmax(nearest)))
      distances = distances_from(projected[picked[-1], None])[:, 0]
      nearest = torch.minimum(nearest, distances)
    return np.array(picked)

  return {
    'coreset': coreset,
    f'coreset, {_STARTING_POINTS} starting points': approximate_coreset,
    'nearest': lambda: torch.cdist(queries, memory).min(1).values.numpy(),
  }


def _sklearn_works(queries: np.ndarray, memory: np.ndarray) -> Works:
  from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]

  search = NearestNeighbors(n_neighbors=1, algorithm='brute').fit(memory)
  return {'nearest': lambda: search.kneighbors(queries)[0][:, 0]}
