"""Numbers of things, in words."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
  """'1 image', '2 images'.

  Args:
    number: number of what is counted.
    noun: word for one of them, in the singular.
    plural: word for several of them; the noun with an s if None.
  """
  return f'{number} {noun if number == 1 else plural or noun + "s"}'
