"""The library that computes in bfloat16 on CPUs.

XLA's own convolutions in bfloat16 are slower than those in float32, whatever the processor
can do. oneDNN's use its instructions for bfloat16 (AVX512-BF16, AMX), and XLA can call them.

Models in float32 are not helped: XLA gives oneDNN their matrix products too, which are as fast
there but otherwise rounded, and JAX cannot keep the programs that call it between runs.
"""

import platform
from importlib.metadata import version

from memkd_jax.runtime import xla_flags

# With other releases XLA was not seen to know this flag, and of an unknown one it dies.
_RELEASE = '0.12.'
_PAYS_FOR = frozenset({'bfloat16', 'auto'})
_FLAG = '--xla_cpu_experimental_onednn_custom_call'


def ask_for_it(*dtypes: str | None) -> None:
  """Asks XLA to leave convolutions of bfloat16 on CPUs to oneDNN, none of float32.

  It does nothing once JAX has started its backend, which is beyond asking then. What the user
  says in $XLA_FLAGS of the same flag stays.

  Args:
    dtypes: values of `model.dtype`; nothing is asked for unless one is bfloat16, or auto,
      which may come to it.
  """
  x86 = platform.system() == 'Linux' and platform.machine() == 'x86_64'
  if x86 and version('jax').startswith(_RELEASE) and not _PAYS_FOR.isdisjoint(dtypes):
    from jax._src import xla_bridge  # of that release; nothing public tells

    if not xla_bridge.backends_are_initialized():
      xla_flags.ask(_FLAG)
