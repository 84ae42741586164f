"""Downloads torchvision's ImageNet weights; resumes, and checks before use."""

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from memkd_jax.errors import UserError
from memkd_jax.teachers import weights

_SERVER = 'https://download.pytorch.org/models'
# The V1 weights, which the method's published results rest on (torchvision's V2
# are trained otherwise). Each name ends with the first digits of its sha256.
FILES = {
  'resnet18': 'resnet18-f37072fd.pth',
  'resnet34': 'resnet34-b627a593.pth',
  'resnet50': 'resnet50-0676ba61.pth',
  'wide_resnet50_2': 'wide_resnet50_2-95faca4d.pth',
}
_CHUNK = 1 << 18  # bytes
_TIMEOUT = 30  # seconds without a byte


def imagenet_weights(arch: str, folder: Path | str, server: str = _SERVER) -> Path:
  """Downloads the state dict of an architecture, unless it is there already.

  What arrives is kept in `NAME.part`, from which the next call goes on, and gets
  its name once its sha256 is the one that the name promises.

  Args:
    arch: a key of `FILES`.
    folder: where to; made if missing.
    server: URL of the folder that holds the file.

  Returns:
    The file's path.

  Raises:
    UserError: the server cannot be reached, breaks off, or sends something else.
  """
  path = Path(folder) / FILES[arch]
  if path.exists():
    if not _is_intact(path, path.name):
      raise UserError(
        f'{path} is not the file that its name promises: delete it and try again.'
      )
    return path
  url, part = f'{server}/{path.name}', path.with_name(f'{path.name}.part')
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    _fetch(url, part)
  except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
    kept = f'; {part} is kept, and the next try goes on from there' if part.exists() else ''
    raise UserError(
      f'{url} could not be downloaded ({getattr(error, "reason", error)}): try again, or fetch '
      f'that file elsewhere and pass it as --source={path.name}{kept}.'
    ) from error
  if not _is_intact(part, path.name):
    part.unlink()
    raise UserError(f'{url} arrived damaged (its sha256 is not that of its name): try again.')
  part.rename(path)
  return path


def _fetch(url: str, part: Path) -> None:
  """Appends to `part` what it lacks."""
  done = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url, headers={'Range': f'bytes={done}-'} if done else {})
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT)
  except urllib.error.HTTPError as error:
    if done and error.code == 416:  # nothing lies beyond: the part is whole
      return
    raise
  with response:
    if response.status != 206:  # a server that knows no ranges sends all of it
      done = 0
    missing = int(response.headers.get('Content-Length', 0))
    with (
      open(part, 'ab' if done else 'wb') as file,
      tqdm(
        desc=part.stem,
        initial=done,
        total=done + missing or None,
        unit='B',
        unit_scale=True,
        dynamic_ncols=True,
      ) as progress,
    ):
      while chunk := response.read(_CHUNK):
        file.write(chunk)
        progress.update(len(chunk))
    if missing and part.stat().st_size < done + missing:
      raise http.client.IncompleteRead(b'', done + missing - part.stat().st_size)


def _is_intact(path: Path, name: str) -> bool:
  digits = Path(name).stem.rpartition('-')[2]
  return weights.sha256(path).startswith(digits)
