"""What XLA is asked for by the environment, which it reads when JAX starts its backend."""

import os


def ask(flag: str) -> None:
  """Sets a flag to true, but for one that the user has set, whatever to.

  To be called before JAX starts its backend; later it changes nothing. Nor does it where
  $XLA_FLAGS names a file of flags.

  Args:
    flag: the flag's name, '--xla_...', without a value.
  """
  flags = os.environ.get('XLA_FLAGS', '').strip()
  names_a_file = flags != '' and not flags.startswith('-')
  if flag not in flags and not names_a_file:
    os.environ['XLA_FLAGS'] = f'{flags} {flag}=true'.strip()
