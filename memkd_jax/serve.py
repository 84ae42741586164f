"""The inspection server: python -m memkd_jax.serve --workdir=DIR (docs/serving.md)."""

import argparse
import ipaddress
import signal
import socket
import sys

from memkd_jax.runtime import huge_pages

if __name__ == '__main__':
  huge_pages.restart_with_huge_pages()  # before the imports that take seconds

from memkd_jax.cli import add_model_flags, load_named
from memkd_jax.detector import Detector, load_all
from memkd_jax.errors import UserError, explain
from memkd_jax.runtime import compile_cache

_SHUTDOWN = 10  # seconds for which requests in progress may go on
_CONNECTIONS = 256  # beyond which 503 is answered at once


def main(argv: list[str] | None = None) -> None:
  """Serves until SIGTERM or SIGINT, which end it with code 0."""
  arguments = _parser().parse_args(argv)
  try:
    _serve(arguments)
  except (UserError, OSError) as error:
    sys.exit(f'serve: {explain(error)}')
  except KeyboardInterrupt:
    sys.exit(130)  # while loading


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m memkd_jax.serve',
    description='Serves trained models on a web page: all of a run, or one --category.',
  )
  add_model_flags(parser)  # without --category all finished ones are served
  add = parser.add_argument
  add('--host', default='127.0.0.1', help='address to listen on; %(default)s')
  add('--port', type=_port, default=8000, help='0 chooses a free one; %(default)s')
  add('--max-bytes', type=_positive, default=64 * 2**20, help='of a request; %(default)s')
  add('--max-images', type=_positive, default=16, help='of a request; %(default)s')
  return parser


def _port(text: str) -> int:
  if not 0 <= (port := int(text)) < 2**16:
    raise argparse.ArgumentTypeError('give a number from 0 to 65535')
  return port


def _positive(text: str) -> int:
  if (number := int(text)) < 1:
    raise argparse.ArgumentTypeError('give a number from 1')
  return number


def _serve(arguments: argparse.Namespace) -> None:
  try:
    import uvicorn

    from memkd_jax.deploy.serving.app import LOOPBACK_NAMES, create_app
    from memkd_jax.deploy.serving.uploads import Limits
  except ImportError as error:
    raise UserError(f"{error}; pip install -e '.[serve]'.") from error
  if problem := compile_cache.enable():
    print(f'Note: {problem}', flush=True)
  detectors = _load_models(arguments)
  listener, loopback = _listen(arguments.host, arguments.port)
  with listener:
    if not loopback:
      print(
        'Note: whoever reaches this address can use the server: it asks for no password, and '
        'nothing is encrypted.',
        flush=True,
      )
    app = create_app(
      detectors,
      Limits(arguments.max_bytes, arguments.max_images),
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


def _load_models(arguments: argparse.Namespace) -> dict[str, Detector]:
  """The detectors, by their category."""
  if arguments.category is not None:
    detectors = [load_named(arguments)]
  else:
    detectors = load_all(
      arguments.workdir,
      seed=arguments.seed,
      false_alarm_rate=arguments.false_alarm_rate,
      teacher_weights=arguments.teacher_weights,
    )
  for note in detectors[0].notes:
    print(f'Note: {note}', flush=True)
  return {detector.category: detector for detector in detectors}


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
  main()
