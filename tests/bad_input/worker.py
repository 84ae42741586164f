"""Runs cases in processes that may hang, crash, or run out of memory.

  python -m bad_input.worker TARGET:BEGIN:END ...

prints one JSON object for each case. The number of a case is its seed, so a case that
failed is repeated with `TARGET:NUMBER:NUMBER+1`.
"""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from bad_input.target import Target
from bad_input.targets import TARGETS
from memkd_jax.errors import UserError, explain

LIMIT = 30  # seconds for a case, which has milliseconds of work
MEMORY = 3 * 2**30  # bytes that a case may take, beside what the process has
LONGEST = 20_000  # characters of a sentence; a teacher lists all the tensors that it lacks
# Events of Python that nothing which only reads a file has any business with.
_FORBIDDEN = (
  'os.system',
  'os.exec',
  'os.posix_spawn',
  'os.fork',
  'subprocess.',
  'socket.connect',
)
_FORBIDDEN += ('pickle.find_class', 'exec')


def run_case(target: Target, number: int, folder: Path) -> dict[str, Any]:
  """One case: outcome 'read', 'refused' or 'failed', and what was said."""
  began = time.monotonic()
  outcome, detail = 'failed', ''
  try:
    target.run(number, folder)
    outcome = 'read'
  except (UserError, OSError, SystemExit) as error:
    detail = str(error.code) if isinstance(error, SystemExit) else explain(error)
    problem = target.problem(detail)
    outcome = 'failed' if problem else 'refused'
    detail = f'{problem}: {detail}' if problem else detail
  except BaseException as error:
    last = traceback.extract_tb(error.__traceback__)[-1]
    detail = f'{type(error).__name__}: {error} ({last.filename}:{last.lineno})'
  return {
    'target': target.name,
    'case': number,
    'outcome': outcome,
    'detail': detail[:LONGEST],
    'seconds': round(time.monotonic() - began, 3),
  }


def _guard(limit: int | None) -> None:
  """In a child: bounds its memory, and makes running anything an error."""
  if limit is not None:
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    size = pages * os.sysconf('SC_PAGE_SIZE') + limit
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

  def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == 'exec' and _is_import():
      return
    if event.startswith(_FORBIDDEN):
      os.write(2, f'forbidden: {event} {arguments}\n'.encode())
      os._exit(99)

  sys.addaudithook(hook)


def _is_import() -> bool:
  """Whether the code that is about to run is that of a module."""
  frame = sys._getframe(2)
  while frame is not None:
    if 'importlib' in frame.f_code.co_filename:
      return True
    frame = frame.f_back
  return False


def run(target: Target, numbers: range, folder: Path) -> None:
  """Runs cases in children, each of as many as it survives."""
  waiting = list(numbers)
  tried_again: set[int] = set()
  while waiting:
    batch = waiting[:1] if target.isolated else waiting
    done, status, slow = _run_in_child(target, batch, folder)
    waiting = waiting[done:]
    if done == len(batch):
      continue
    number = waiting[0]
    if slow and number not in tried_again:  # the machine may have been busy
      tried_again.add(number)
      continue
    what = f'took more than {LIMIT} s' if slow else f'ended its process with status {status}'
    waiting = waiting[1:]
    _report({'target': target.name, 'case': number, 'outcome': 'failed', 'detail': what})


def _run_in_child(target: Target, batch: list[int], folder: Path) -> tuple[int, int, bool]:
  """(how many cases were done, the exit status, whether the next took too long)."""
  reading, writing = os.pipe()
  child = os.fork()
  if child == 0:
    os.close(reading)
    status = 1
    try:
      _guard(target.memory)
      for number in batch:
        with contextlib.redirect_stdout(sys.stderr):  # whatever the case prints
          result = json.dumps(run_case(target, number, folder))
        os.write(writing, result.encode() + b'\n')
      status = 0
    finally:
      os._exit(status)
  os.close(writing)
  done, rest, slow = 0, b'', False
  deadline = time.monotonic() + LIMIT
  while True:
    ready, _, _ = select.select([reading], [], [], max(deadline - time.monotonic(), 0))
    if not ready:
      if _is_stopped(child):
        deadline = time.monotonic() + LIMIT
        continue
      slow = True
      os.kill(child, signal.SIGKILL)
      break
    content = os.read(reading, 2**16)
    if not content:
      break
    *lines, rest = (rest + content).split(b'\n')
    for line in lines:
      _report(json.loads(line))
      done += 1
      deadline = time.monotonic() + LIMIT
  os.close(reading)
  _, status = os.waitpid(child, 0)
  return done, os.waitstatus_to_exitcode(status), slow


def _is_stopped(process: int) -> bool:
  return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] == 'T'


def _report(result: dict[str, Any]) -> None:
  print(json.dumps(result), flush=True)


def main(*requests: str) -> None:
  for request in requests:
    name, begin, end = request.split(':')
    target = TARGETS[name]
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)  # for `as_nobody`
    child = os.fork()  # so that no thread runs here when the cases are forked
    if child == 0:
      status = 1
      try:
        target.prepare(home)
        status = 0
      except BaseException:
        traceback.print_exc()
      finally:
        os._exit(status)
    if os.waitpid(child, 0)[1]:
      sys.exit(f'{name} cannot be prepared')
    run(target, range(int(begin), int(end)), home)
    shutil.rmtree(home)


if __name__ == '__main__':
  main(*sys.argv[1:])
