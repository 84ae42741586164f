"""One look for all progress bars: images, images per second, time left."""

import sys

from tqdm import tqdm


def progress_bar(
  description: str, total: int, done: int = 0, *, leave: bool = False
) -> 'tqdm[None]':
  """A bar on stderr, to be used as a context manager and told of images by `update`.

  Args:
    description: what is going on.
    total: number of images.
    done: of which are done already.
    leave: whether the bar stays on the terminal when it is full.
  """
  return tqdm(
    desc=description,
    total=total,
    initial=done,
    leave=leave,
    unit='img',
    dynamic_ncols=True,
    # A log file needs a line now and then, not ten a second.
    mininterval=0.1 if sys.stderr.isatty() else 10,
  )
