"""The same bits from the same command on a GPU."""

import os

# Implies xla_gpu_exclude_nondeterministic_ops, and that kernels are not chosen by
# timing them, which gives others from run to run.
_FLAG = '--xla_gpu_deterministic_ops'


def enable() -> None:
  """Asks XLA for programs that give the same bits on the same GPU in every run.

  To be called before JAX starts its backend, which reads $XLA_FLAGS then. What the
  user says there of the same flag stays. On CPU it changes nothing: programs are
  deterministic there.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if _FLAG not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {_FLAG}=true'.strip()
