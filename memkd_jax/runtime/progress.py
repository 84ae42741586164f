"""One look for all progress bars: images, images per second, time left."""

import sys

from tqdm import tqdm


def progress_bar(
  description: str, total: int, done: int = 0, *, leave: bool = False, unit: str = 'img'
) -> 'tqdm[None]':
  """A bar on stderr, to be used as a context manager and told of progress by `update`.

  Args:
    description: words for what is going on.
    total: number of images, or of what else is counted.
    done: how many of the total are done already.
    leave: whether the bar stays on the terminal when it is full.
    unit: short word for what is counted.
  """
  return tqdm(
    desc=description,
    total=total,
    initial=done,
    leave=leave,
    unit=unit,
    dynamic_ncols=True,
    # A log file needs a line now and then, not ten a second.
    mininterval=0.1 if sys.stderr.isatty() else 10,
  )
