"""What a program costs, as far as it is known before it runs."""

import dataclasses
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

# Bytes of HLO's types; one that is not here is counted as nothing.
_BYTES = {
  'pred': 1,
  's8': 1,
  'u8': 1,
  'bf16': 2,
  'f16': 2,
  's16': 2,
  'u16': 2,
  'f32': 4,
  's32': 4,
  'u32': 4,
  'f64': 8,
  's64': 8,
  'u64': 8,
  'c64': 8,
}
_COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'all-to-all',
  'reduce-scatter',
  'collective-permute',
  'collective-broadcast',
)
_HLO = re.compile(
  rf'= (?P<type>\(.*?\)|\S+) (?P<kind>{"|".join(_COLLECTIVES)})(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')
# Their asynchronous form gives what it takes beside what it makes.
_GIVES_BOTH = ('all-gather', 'collective-permute')


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one device does in a program; None for what cannot be told.

  Attributes:
    flops: floating-point operations; of a program that is not compiled as it is written.
    bytes_accessed: bytes read and written, as XLA estimates them.
    memory: bytes by kind: 'arguments', 'outputs', 'shared' (outputs that take the place of
      arguments), 'temporaries', 'code'; without a compiled program None.
    collectives: {kind: (number, bytes of their results)}; one in a loop counts once.
    operations: number of operations of the program before it is compiled.
    seconds: seconds that compiling took; None where it was not compiled.
  """

  flops: float | None
  bytes_accessed: float | None
  memory: dict[str, int] | None
  collectives: dict[str, tuple[int, int]]
  operations: int
  seconds: float | None

  @property
  def peak(self) -> int | None:
    """Bytes of a device that arguments, outputs and temporaries take together."""
    if self.memory is None:
      return None
    kinds = ('arguments', 'outputs', 'temporaries', 'code')
    return sum(self.memory[kind] for kind in kinds) - self.memory['shared']


def lowered_cost(lowered: Any) -> Cost:
  """What is known without a compiler.

  Args:
    lowered: the lowered program, a `jax.stages.Lowered`.
  """
  flops = (lowered.cost_analysis() or {}).get('flops')
  operations, collectives = _written(lowered)
  return Cost(flops, None, None, collectives, operations, None)


def _written(lowered: Any) -> tuple[int, dict[str, tuple[int, int]]]:
  """The number of operations, and the collectives among them, before anything is compiled."""
  number = 0
  collectives: dict[str, list[int]] = defaultdict(list)
  for operation in _walk(lowered.compiler_ir('stablehlo').operation):
    number += 1
    kind = operation.name.removeprefix('stablehlo.').replace('_', '-')
    if kind in _COLLECTIVES:
      sizes = (_bytes_of_type(str(result.type)) for result in operation.results)
      collectives[kind].append(sum(sizes))
  return number, _summed(collectives)


def compiled_cost(lowered: Any) -> Cost:
  """What is known once a program is compiled, which this does.

  Args:
    lowered: the lowered program, a `jax.stages.Lowered`.
  """
  began = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - began
  costs = compiled.cost_analysis() or {}
  found = compiled.memory_analysis()
  memory = None
  if found is not None:
    memory = {
      'arguments': found.argument_size_in_bytes,
      'outputs': found.output_size_in_bytes,
      'shared': found.alias_size_in_bytes,
      'temporaries': found.temp_size_in_bytes,
      'code': found.generated_code_size_in_bytes,
    }
  return Cost(
    costs.get('flops'),
    costs.get('bytes accessed'),
    memory,
    collectives_of_hlo(compiled.as_text()),
    _written(lowered)[0],
    seconds,
  )


def collectives_of_hlo(text: str) -> dict[str, tuple[int, int]]:
  """{kind: (number, bytes of their results)} of a compiled program's text."""
  found: dict[str, list[int]] = defaultdict(list)
  for match in _HLO.finditer(text):
    sizes = [
      _BYTES.get(kind, 0) * math.prod(map(int, filter(None, shape.split(','))))
      for kind, shape in _ARRAY.findall(match['type'])
    ]
    if match['start'] and match['kind'] in _GIVES_BOTH:
      sizes = sizes[1:2]
    found[match['kind']].append(sum(sizes))
  return _summed(found)


def _summed(found: dict[str, list[int]]) -> dict[str, tuple[int, int]]:
  return {kind: (len(sizes), sum(sizes)) for kind, sizes in sorted(found.items())}


def _walk(operation: Any) -> Iterator[Any]:
  """All operations inside of one of MLIR's."""
  blocks: Iterable[Any] = (block for region in operation.regions for block in region.blocks)
  for block in blocks:
    for inner in block.operations:
      yield inner.operation
      yield from _walk(inner.operation)


def _bytes_of_type(text: str) -> int:
  """Bytes of an MLIR tensor, 'tensor<2x3xf32>' for example."""
  match = re.fullmatch(r'tensor<((?:\d+x)*)(\w+)>', text)
  if match is None:
    return 0
  shape = [int(side) for side in match[1].split('x') if side]
  kind = {'i1': 'pred'}.get(match[2], re.sub(r'^i', 's', match[2].replace('ui', 'u')))
  return math.prod(shape) * _BYTES.get(kind, 0)
