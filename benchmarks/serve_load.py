"""Loads an inspection server that is running, with concurrent clients.

  python -m memkd_jax.serve --workdir=DIR &
  python benchmarks/serve_load.py --images=~/datasets/mvtec_ad/bottle/test --clients=1,4,16

Each client sends one image per request, and the next one when it has the answer. Prints one
line per number of clients: images per second, latencies in milliseconds, the mean size
of the batches, answers that were not 200, and the server's memory.
"""

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

from memkd_jax.data.listing import list_images


async def client(
  http: httpx.AsyncClient, url: str, files: Iterator[tuple[str, bytes]], until: float
) -> list[tuple[float, int]]:
  """Sends images one after the other; (seconds, status) of each, 0 for no answer."""
  seen = []
  while time.monotonic() < until:
    begin = time.monotonic()
    try:
      status = (await http.post(url, files={'images': next(files)})).status_code
    except httpx.TransportError:
      status = 0
    seen.append((time.monotonic() - begin, status))
  return seen


async def figures(http: httpx.AsyncClient, base: str) -> dict[str, float]:
  """What /metrics says, without its comments."""
  lines = (await http.get(f'{base}/metrics')).text.splitlines()
  pairs = (line.rsplit(' ', 1) for line in lines if not line.startswith('#'))
  return {name: float(value) for name, value in pairs}


async def load(
  base: str, query: str, files: list[tuple[str, bytes]], clients: int, seconds: float
) -> str:
  """A row of the table for some number of clients."""
  limits = httpx.Limits(max_connections=clients + 1)
  async with httpx.AsyncClient(timeout=120, limits=limits) as http:
    before = await figures(http, base)
    begin = time.monotonic()
    shared = itertools.cycle(files)
    tasks = [
      client(http, f'{base}/api/score{query}', shared, begin + seconds) for _ in range(clients)
    ]
    seen = [one for many in await asyncio.gather(*tasks) for one in many]
    took = time.monotonic() - begin
    after = await figures(http, base)

  def change(name: str) -> float:
    return after[name] - before[name]

  statuses = Counter(status for _, status in seen)
  good = [second * 1000 for second, status in seen if status == 200]
  p50, p95, p99 = np.percentile(good, [50, 95, 99]) if good else [float('nan')] * 3
  batch = change('memkd_batch_images_sum') / max(1, change('memkd_batch_images_count'))
  others = {status: number for status, number in statuses.items() if status != 200}
  memory = after.get('process_resident_memory_bytes', float('nan')) / 1e9
  return (
    f'| {clients} | {len(seen)} | {len(good) / took:.1f} | {p50:.0f} | {p95:.0f} | {p99:.0f} '
    f'| {batch:.1f} | {others or 0} | {memory:.2f} |'
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--url', default='http://127.0.0.1:8000')
  parser.add_argument('--images', type=Path, required=True, help='a folder, with subfolders')
  parser.add_argument('--clients', default='1,4,16,64', help='numbers, with commas')
  parser.add_argument('--seconds', type=float, default=30, help='for each number of clients')
  parser.add_argument('--query', default='', help='for example ?overlay=true')
  arguments = parser.parse_args()
  folder = arguments.images.expanduser()
  folders = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
  paths = [path for one in folders for path in list_images(one)]
  files = [(path.name, path.read_bytes()) for path in paths]
  print('| clients | requests | images/s | p50 ms | p95 ms | p99 ms | batch | errors | GB |')
  print('| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |')
  for clients in map(int, arguments.clients.split(',')):
    row = asyncio.run(load(arguments.url, arguments.query, files, clients, arguments.seconds))
    print(row, flush=True)


if __name__ == '__main__':
  main()
