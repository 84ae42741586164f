"""Downloads the ImageNet weights of torchvision; resumes, and checks before use."""

import dataclasses
import http.client
import os
import shlex
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from memkd_jax import __version__
from memkd_jax.errors import UserError, is_disk_full
from memkd_jax.files import atomic
from memkd_jax.teachers import weights

# Names another server, with the same paths below it.
SERVER_VARIABLE = 'MEMKD_WEIGHTS_URL'
_SERVER = 'https://huggingface.co/timm'
_CHUNK = 1 << 18  # bytes
_TIMEOUT = 30  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Published:
  """What is known of a file before it arrives.

  Attributes:
    size: size of the file in bytes.
    sha256: digest of the file, 64 hexadecimal digits.
  """

  size: int
  sha256: str


# The V1 weights, which the method's published results rest on (torchvision's V2 are trained
# otherwise), as timm keeps them.
FILES = {
  'resnet18': Published(
    46_807_446, '694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81'
  ),
  'resnet34': Published(
    87_278_522, '0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235'
  ),
  'resnet50': Published(
    102_469_840, '5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888'
  ),
  'wide_resnet50_2': Published(
    275_835_296, 'df6fb6c4824769769de18e14088475fd6ee94236849aa4e5d8022ba9d9a9a16c'
  ),
}


def imagenet_weights(arch: str, out: Path) -> Path:
  """Downloads the state dict of an architecture beside `out`, unless it is there already.

  What arrives is kept in `NAME.part`, from which the next call goes on, and gets its name
  once its sha256 is the published one.

  Args:
    arch: name of the network, a key of `FILES`.
    out: the teacher that is to be made of it; its folder is made if missing.

  Returns:
    The file's path, `<arch>.tv_in1k.safetensors`.

  Raises:
    UserError: the server cannot be reached, breaks off, or sends something else.
    OSError: the file cannot be written.
  """
  published = FILES[arch]
  path = out.with_name(f'{arch}.tv_in1k.safetensors')
  if path.exists():
    if weights.sha256(path) != published.sha256:
      raise UserError(
        f'{path} is not what its name promises (its sha256 is not {published.sha256}): delete '
        'it and try again.'
      )
    return path
  server = os.environ.get(SERVER_VARIABLE) or _SERVER
  url = f'{server.rstrip("/")}/{arch}.tv_in1k/resolve/main/model.safetensors'
  part = path.with_name(f'{path.name}.part')
  path.parent.mkdir(parents=True, exist_ok=True)
  otherwise = (
    f'try again, or fetch that file elsewhere, save it as {path} and run `'
    + shlex.join(['memkd', 'weights', f'--arch={arch}', f'--source={path}', f'--out={out}'])
    + '`.'
  )
  try:
    _fetch(url, part, published.size)
  except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
    # Of the disk, not of the network.
    if is_disk_full(error) or (isinstance(error, OSError) and error.filename == str(part)):
      with atomic.naming(part):
        raise
    kept = f'; {part} is kept, and the next try goes on from there' if part.exists() else ''
    raise UserError(
      f'{url} could not be downloaded ({getattr(error, "reason", error)}){kept}: {otherwise}'
    ) from error
  if weights.sha256(part) != published.sha256:
    part.unlink()
    raise UserError(
      f'{url} arrived damaged, or is another file (its sha256 is not {published.sha256}): '
      f'{otherwise}'
    )
  part.rename(path)
  return path


def _fetch(url: str, part: Path, size: int) -> None:
  """Appends to `part` what it lacks of `size` bytes, and never more."""
  done = part.stat().st_size if part.exists() else 0
  if done == size:
    return
  headers = {'User-Agent': f'memkd_jax/{__version__}'}
  if 0 < done < size:
    headers['Range'] = f'bytes={done}-'
  try:
    response = urllib.request.urlopen(
      urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
    )
  except urllib.error.HTTPError as error:
    if error.code == 416:  # its file is shorter than what is here
      part.unlink()
    raise
  with response:
    if response.status != 206:  # a server that knows no ranges sends all of it
      done = 0
    announced = response.headers.get('Content-Length')
    if announced is not None and done + int(announced) != size:
      raise ValueError(f'it has {done + int(announced):,} bytes instead of {size:,}')
    with (
      open(part, 'ab' if done else 'wb') as file,
      tqdm(
        desc=part.stem,
        initial=done,
        total=size,
        unit='B',
        unit_scale=True,
        dynamic_ncols=True,
        # A log file needs a line now and then, not ten a second.
        mininterval=0.1 if sys.stderr.isatty() else 10,
      ) as progress,
    ):
      while done < size and (chunk := response.read(min(_CHUNK, size - done))):
        file.write(chunk)
        done += len(chunk)
        progress.update(len(chunk))
    if done < size:
      raise http.client.IncompleteRead(b'', size - done)
