"""The one exception that a user is meant to read."""


class UserError(Exception):
  """Something in the input, not in the program, is wrong.

  The message is one clear sentence that names the file or the field and the
  remedy; `main` prints it without a traceback and exits with code 1.
  """
