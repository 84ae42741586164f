"""Receives images as a form's files, within limits that hold while they come in."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
from fastapi import HTTPException, Request
from PIL import UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteError
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from memkd_jax.data.framing import RGB
from memkd_jax.data.images import Sizing, as_framing
from memkd_jax.data.modalities import read_sample
from memkd_jax.data.sample import GOOD, Sample
from memkd_jax.errors import UserError, explain

FIELD = 'images'
_MAX_NAME = 200  # characters of a file's name that are repeated
_MAX_TEXT = 1024  # bytes of a field that is no file


@dataclass(frozen=True)
class Limits:
  """What a request may ask for.

  Attributes:
    bytes: the largest size of a request's body, in bytes.
    images: the most images of a request.
    seconds: the time in which a request's body must have come.
  """

  bytes: int
  images: int
  seconds: float = 60.0


class Upload:
  """An uploaded file that opens as a path does.

  Attributes:
    name: what its sender calls it.
    remarks: what was remarkable about it when it was read, see `data.images.Notice`.
  """

  def __init__(self, file: UploadFile, beside: Mapping[str, 'Upload'] | None = None):
    """Takes a file of a form.

    Args:
      file: the received file of an image.
      beside: what else was recorded of the object, by its name in a sample.
    """
    self._file, self._beside = file, dict(beside or {})
    self.name = (file.filename or 'image')[:_MAX_NAME]
    self.remarks: list[str] = []

  def __str__(self) -> str:
    return self.name

  def open(self, mode: Literal['rb']) -> IO[bytes]:
    """Opens what was uploaded; the form closes it."""
    self._file.file.seek(0)
    return self._file.file  # type: ignore[return-value]

  def read(self, size: Sizing, bits: int) -> tuple[np.ndarray, tuple[int, int]]:
    """`read_sample` of it.

    Raises:
      HTTPException: 415 where it is no image at all, 422 where it is broken, too large, or
        several.
    """
    try:
      sample = Sample(self.name, {RGB: self, **self._beside}, None, GOOD)
      return read_sample(sample, as_framing(size), bits, self.remarks.append)
    except UserError as error:
      status = 415 if _is_no_image(error) else 422
      raise HTTPException(status, explain(error)) from error


async def receive_form(request: Request, limits: Limits, parts: int = 1) -> FormData:
  """Reads a form to its end, or refuses it as soon as it exceeds a limit.

  Args:
    request: nothing of its body has been read.
    limits: how much the request may hold.
    parts: the most files that belong to an image, with its own.

  Returns:
    The form, to be closed.

  Raises:
    HTTPException: 400 where it is no form, 408 where it comes too slowly, 413 where it is
      too large.
  """
  declared = request.headers.get('content-length', '0')
  if declared.isdecimal() and int(declared[:20]) > limits.bytes:
    raise _too_large(limits)
  limited = Request(request.scope, _limited(request.receive, limits))
  try:
    async with asyncio.timeout(limits.seconds):
      # One more than are allowed, as the form's own refusal says nothing of the remedy.
      return await limited.form(
        max_files=parts * limits.images + 1, max_fields=4, max_part_size=_MAX_TEXT
      )
  except TimeoutError:
    raise HTTPException(
      408, f'The images did not arrive within {limits.seconds:g} seconds; send fewer at once.'
    ) from None
  except ClientDisconnect:
    raise HTTPException(400, 'The client went away.') from None
  except StarletteError as error:
    if str(error.detail).startswith('Too many files'):
      raise _too_many(limits) from None
    raise
  # What the parser raises of forms that are none, and of unknown encodings.
  except (ValueError, LookupError) as error:
    raise HTTPException(400, f'The form cannot be read: {error}.') from error


def images_of(form: FormData, limits: Limits, further: Sequence[str] = ()) -> list[Upload]:
  """The files of a form's field `images`, with those that belong to them.

  Args:
    form: the form as `receive_form` gave it.
    limits: how much the request may hold.
    further: names of fields with a file for each of the images, in their order; those that
      are not there are left out.

  Raises:
    HTTPException: 400 where there are no images, or another number of files beside them; 413
      where they are too many.
  """
  files = [file for file in form.getlist(FIELD) if isinstance(file, UploadFile)]
  if len(files) > limits.images:
    raise _too_many(limits)
  if not files:
    raise HTTPException(
      400, f'The request holds no image; send files as the field {FIELD!r} of a form.'
    )
  beside: list[dict[str, Upload]] = [{} for _ in files]
  for name in further:
    others = [file for file in form.getlist(name) if isinstance(file, UploadFile)]
    if others and len(others) != len(files):
      raise HTTPException(
        400,
        f'The request holds {len(files)} files as {FIELD!r} and {len(others)} as {name!r}; '
        'send one for each image, in the same order.',
      )
    for files_of_image, other in zip(beside, others, strict=bool(others)):
      files_of_image[name] = Upload(other)
  return [Upload(file, others) for file, others in zip(files, beside, strict=True)]


def _limited(receive: Receive, limits: Limits) -> Receive:
  """Counts what comes, as a declared length may be wrong or missing."""
  received = 0

  async def limited() -> Message:
    nonlocal received
    message = await receive()
    received += len(message.get('body', b''))
    if received > limits.bytes:
      raise _too_large(limits)
    return message

  return limited


def _too_large(limits: Limits) -> HTTPException:
  return HTTPException(
    413,
    f'The request has more than {limits.bytes:,} bytes; send fewer images at once, or raise '
    "the server's --max-bytes.",
  )


def _too_many(limits: Limits) -> HTTPException:
  return HTTPException(
    413,
    f'The request holds more than {limits.images} images; send fewer at once, or raise the '
    "server's --max-images.",
  )


def _is_no_image(error: BaseException | None) -> bool:
  return any(isinstance(cause, UnidentifiedImageError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__


@contextmanager
def closing(form: FormData) -> Iterator[None]:
  """Removes the files of a form at the end."""
  try:
    yield
  finally:
    for _, value in form.multi_items():
      if isinstance(value, UploadFile):
        value.file.close()
