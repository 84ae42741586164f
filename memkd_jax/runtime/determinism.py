"""The same bits from the same command on a GPU."""

from memkd_jax.runtime import xla_flags

# Implies xla_gpu_exclude_nondeterministic_ops, and that kernels are not chosen by
# timing them, which gives others from run to run.
_FLAG = '--xla_gpu_deterministic_ops'


def enable() -> None:
  """Asks XLA for programs that give the same bits on the same GPU in every run.

  To be called before JAX starts its backend. What the user says in $XLA_FLAGS of the same flag
  stays. On CPU it changes nothing: programs are deterministic there.
  """
  xla_flags.ask(_FLAG)
