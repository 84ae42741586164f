"""What XLA is asked for by the environment, which it reads when JAX starts its backend."""

import os


def ask(flag: str) -> None:
  """Sets a flag to true, but for one that the user has set, whatever to.

  To be called before JAX starts its backend; later it changes nothing.

  Args:
    flag: '--xla_...'.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if flag not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {flag}=true'.strip()
