"""Clients and browsers of a server in this process, for tests of its endpoints and page."""

import io
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from memkd_jax.deploy.serving.app import create_app
from memkd_jax.deploy.serving.uploads import Limits
from memkd_jax.scoring.base import BaseDetector

LIMITS = Limits(bytes=200_000, images=5)
BASE = 'http://127.0.0.1:8000'


@contextmanager
def started(app: FastAPI) -> Iterator[TestClient]:
  """A client of a server that has compiled."""
  with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
    while not app.state.service.batcher.ready:
      assert app.state.service.batcher.failure is None
    yield client


@contextmanager
def serving(detectors: Mapping[str, BaseDetector]) -> Iterator[str]:
  """The address of a server that a browser can reach, and that has compiled."""
  app = create_app(detectors, Limits(bytes=100_000, images=4))
  server = uvicorn.Server(uvicorn.Config(app, log_level='warning'))
  with socket.create_server(('127.0.0.1', 0)) as listener:
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
    thread.start()
    while not app.state.service.batcher.ready:
      time.sleep(0.05)
    try:
      yield f'http://127.0.0.1:{listener.getsockname()[1]}/'
    finally:
      server.should_exit = True
      thread.join()


def texture(seed, size=32):
  return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def encoded(pixels, file_format='PNG'):
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, file_format)
  return stream.getvalue()


GOOD = encoded(texture(0))


def post(client, *contents, names=None, field='images', **params):
  names = names or [f'{i}.png' for i in range(len(contents))]
  files = [(field, (name, content)) for name, content in zip(names, contents, strict=True)]
  return client.post('/api/score', files=files, params={'category': 'bolt'} | params)


def counted(client, line):
  """The value of a line of /metrics, 0 where it is not there yet."""
  for other in client.get('/metrics').text.splitlines():
    if other.startswith(line + ' '):
      return float(other.rsplit(' ', 1)[1])
  return 0.0
