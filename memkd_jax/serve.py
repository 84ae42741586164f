"""The inspection server: memkd serve --workdir=DIR (docs/serving.md)."""

import argparse
import ipaddress
import signal
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memkd_jax import cli
from memkd_jax.errors import UserError

if TYPE_CHECKING:
  from memkd_jax.scoring.base import BaseDetector

_SHUTDOWN = 10  # seconds for which requests in progress may go on
# Idle ones too: far more than the app's own limit of requests, whose 503 says why in JSON.
_CONNECTIONS = 1024
_INTERRUPTED = 130  # the exit code of a process that SIGINT ended, as a shell shows it


def main(argv: Sequence[str] | None = None) -> int:
  """Serves until SIGTERM or SIGINT, which end it with code 0."""
  flags = _parser().parse_args(argv)
  try:
    return cli.exit_code('serve', lambda: _serve(flags))
  except KeyboardInterrupt:  # while loading
    return _INTERRUPTED


def _parser() -> cli.Parser:
  parser = cli.Parser(
    'serve', 'Serves trained models on a web page: all of a run, or one --category.'
  )
  cli.add_model_flags(parser, files='append')  # without --category all finished ones are served
  cli.add_threshold_flags(parser)
  add = parser.add_argument
  add('--host', default='127.0.0.1', help='address to listen on; %(default)s')
  add('--port', type=_port, default=8000, help='0 chooses a free one; %(default)s')
  add(
    '--max-bytes',
    type=_positive,
    default=64 * 2**20,
    help='largest size of a request, in bytes; %(default)s',
  )
  add(
    '--max-images',
    type=_positive,
    default=16,
    help='largest number of images in a request; %(default)s',
  )
  return parser


def _port(text: str) -> int:
  if not 0 <= (port := int(text)) < 2**16:
    raise argparse.ArgumentTypeError('give a number from 0 to 65535')
  return port


def _positive(text: str) -> int:
  if (number := int(text)) < 1:
    raise argparse.ArgumentTypeError('give a number from 1')
  return number


def _serve(flags: argparse.Namespace) -> None:
  try:
    import uvicorn

    from memkd_jax.deploy.serving.app import LOOPBACK_NAMES, create_app
    from memkd_jax.deploy.serving.uploads import Limits
  except ImportError as error:
    raise UserError(f"{error}; pip install -e '.[serve]'.") from error
  detectors = _load_models(flags)
  listener, loopback = _listen(flags.host, flags.port)
  with listener:
    if not loopback:
      print(
        'Note: whoever reaches this address can use the server: it asks for no password, and '
        'nothing is encrypted.',
        flush=True,
      )
    app = create_app(
      detectors,
      Limits(flags.max_bytes, flags.max_images),
      LOOPBACK_NAMES if loopback else ('*',),
      on_compiled=lambda failure: compiled(failure),
    )
    server = uvicorn.Server(
      uvicorn.Config(
        app,
        log_level='warning',
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_SHUTDOWN,
      )
    )

    def compiled(failure: Exception | None) -> None:
      if failure is None:
        print(f'Serving {", ".join(detectors)} at {_url(listener)} (Ctrl-C stops).', flush=True)
      server.should_exit = server.should_exit or failure is not None

    print('Compiling ...', flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
      # The server has handlers of its own, and raises the signal again when it has stopped.
      signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
  if failure := app.state.service.batcher.failure:
    raise UserError(f'the models cannot be compiled: {failure}.')


def _load_models(flags: argparse.Namespace) -> 'dict[str, BaseDetector]':
  """The detectors, by their category."""
  detectors = _load(flags)
  for note in dict.fromkeys(note for detector in detectors for note in detector.notes):
    print(f'Note: {note}', flush=True)
  for detector in detectors:
    if detector.undecided:
      print(f'Note: {detector.category}: {detector.undecided}', flush=True)
  named = {detector.category: detector for detector in detectors}
  if len(named) < len(detectors):
    raise UserError('two files of --model have the same category; name one of them.')
  return named


def _load(flags: argparse.Namespace) -> 'Sequence[BaseDetector]':
  if cli.names_files(flags):
    return cli.load_files(flags, flags.model)
  cli.start_jax_for(flags.workdir)
  if flags.category is not None:
    return [cli.load_named(flags)]
  from memkd_jax.detector import load_all

  return load_all(
    flags.workdir,
    seed=flags.seed,
    false_alarm_rate=flags.false_alarm_rate,
    threshold=flags.threshold,
    teacher_weights=flags.teacher_weights,
  )


def _listen(host: str, port: int) -> tuple[socket.socket, bool]:
  """Opens the port; the socket, and whether only this machine reaches it.

  Raises:
    UserError: the port is taken, or the address is not this machine's.
  """
  try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    listener = socket.create_server(address[:2], family=family, backlog=1024)
  except OSError as error:
    reason = error.strerror or str(error)
    raise UserError(
      f'cannot listen on --host={host} --port={port}: {reason}; choose others.'
    ) from error
  return listener, ipaddress.ip_address(str(address[0]).partition('%')[0]).is_loopback


def _url(listener: socket.socket) -> str:
  host, port = listener.getsockname()[:2]
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


if __name__ == '__main__':
  cli.start(main)
