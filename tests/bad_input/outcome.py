"""What may become of a case, and what may not."""


class WrongError(Exception):
  """A file was read, and what came of it is not what it holds."""


def check(holds: object, what: str) -> None:
  if not holds:
    raise WrongError(what)
