"""The library that computes in bfloat16 on CPUs.

XLA's own convolutions in bfloat16 are slower than those in float32, whatever the processor
can do. oneDNN's use its instructions for bfloat16 (AVX512-BF16, AMX), and XLA can call them.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

from memkd_jax.runtime import xla_flags

# With other releases XLA was not seen to know this flag, and of an unknown one it dies.
_RELEASE = '0.12.'
_FLAG = '--xla_cpu_experimental_onednn_custom_call'


def ask_for_it() -> None:
  """Asks XLA to leave convolutions of bfloat16 on CPUs to oneDNN, none of float32.

  Many products of float32 become oneDNN's too, as fast, but otherwise rounded. To be called
  before JAX starts its backend. What the user says in $XLA_FLAGS of the same flag
  stays.
  """
  try:
    release = version('jax')
  except PackageNotFoundError:  # a file's runtime needs none
    return
  x86 = platform.system() == 'Linux' and platform.machine() == 'x86_64'
  if x86 and release.startswith(_RELEASE):
    xla_flags.ask(_FLAG)
