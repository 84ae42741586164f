"""Joins the processes of a run, on one machine or on several."""

import ctypes
import re
import signal
import socket
from collections.abc import Callable
from typing import Any

import jax

from memkd_jax.errors import UserError
from memkd_jax.runtime import hosts, interrupt

_LOOPBACK = ('localhost', '127.0.0.1', '::1')


def start(coordinator: str | None, process_count: int | None, process_id: int | None) -> None:
  """Joins the other processes of the run; to be called before JAX is used for anything.

  Args:
    coordinator: None for a process alone, 'auto' for what JAX finds out by itself
      (TPU pod slices, SLURM, Open MPI, Kubernetes), or HOST:PORT of the first process.
    process_count: number of processes, given with HOST:PORT alone.
    process_id: number of this process, from 0, given with HOST:PORT alone.

  Raises:
    UserError: the arguments do not fit together, there is nothing to join, or the processes
      have different numbers of devices.
  """
  here = {'num_processes': process_count, 'process_id': process_id}
  given = [value for value in here.values() if value is not None]
  if not coordinator or coordinator == 'auto':
    if given:
      raise UserError('--process-count and --process-id need --coordinator=HOST:PORT.')
    if not coordinator:
      return
    arguments: dict[str, Any] = {}
    remedy = 'name it with --coordinator=HOST:PORT, --process-count and --process-id'
  else:
    host = _check_address(coordinator)
    if process_count is None or process_id is None or not 0 <= process_id < process_count:
      raise UserError(
        f'--coordinator={coordinator} needs --process-count=N and a --process-id of 0 to N-1.'
      )
    arguments = here | {'coordinator_address': coordinator}
    if host in _LOOPBACK:  # JAX would listen on every network of the machine
      arguments['coordinator_bind_address'] = coordinator
    remedy = 'start all processes, with the same coordinator and count'
    print(f'Process {process_id} of {process_count} looks for the others at {coordinator}.')
  # Without it CPU devices of several processes could not exchange anything.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  try:
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0].rstrip('.')
    raise UserError(
      f'--coordinator={coordinator}: there is nothing to join ({reason}); {remedy}.'
    ) from error
  owners = [device.process_index for device in jax.devices()]
  numbers = [owners.count(i) for i in sorted(set(owners))]
  if len(set(numbers)) > 1:
    raise UserError(
      f'The processes have {", ".join(map(str, numbers))} devices; give each as many.'
    )
  if hosts.count() > 1:
    interrupt.share(_take_sigterm_from_jax(), hosts.reached_preemption)


def _check_address(address: str) -> str:
  """The host of HOST:PORT or of [HOST]:PORT; raises UserError where it is none."""
  found = re.fullmatch(r'(?:\[([^]]+)\]|([^:]+)):(\d{1,5})', address)
  if not found or not 0 < int(found[3]) < 65536:
    raise UserError(f'--coordinator={address}: give auto, or HOST:PORT of the first process.')
  host = found[1] or found[2]
  try:
    socket.getaddrinfo(host, int(found[3]))
  except OSError as error:
    raise UserError(f'--coordinator={address}: {host} is not known ({error}).') from error
  return host


def _take_sigterm_from_jax() -> Callable[[], None]:
  """Takes JAX's handler of SIGTERM away, to be called after ours.

  It does no more than to note the signal, which JAX then tells the other processes. It is
  fetched from the C library because Python does not know handlers that are not its own.

  Returns:
    What calls that handler.

  Raises:
    UserError: JAX has set no handler.
  """
  set_handler = ctypes.CDLL(None).signal
  set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
  address = set_handler(signal.SIGTERM, None)
  if address in (None, int(signal.SIG_IGN)):
    raise UserError(
      'JAX does not pass signals on to other processes here; take '
      'JAX_ENABLE_PREEMPTION_SERVICE out of the environment.'
    )
  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
  return lambda: handler(signal.SIGTERM)
