"""A trained model as one file that needs neither this package nor the run's folder.

It is a zip of model.jaxexport, a program of jax.export with its parameters inside, and
metadata.json. docs/export.md says how to run it.
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax import export as jax_export

import memkd_jax
from memkd_jax.data.framing import RGB, Framing
from memkd_jax.data.images import size_value
from memkd_jax.deploy.from_file import FORMAT, FRAMED, SEVERAL
from memkd_jax.detector import Detector
from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.scoring.any_category import AnyCategory
from memkd_jax.scoring.calibration import default_pixel_rate

PROGRAM = 'model.jaxexport'
METADATA = 'metadata.json'
PLATFORMS = ('cpu', 'cuda', 'tpu')

_RESIZING = (
  'Apply the EXIF orientation, convert to RGB with 8 bits per channel (of files of 16 bits per '
  'channel 2**bit_depth - 1 becomes 255, and what is above is clipped), and resize to '
  'image_size (one number for both sides, or [height, width]) with Pillow, '
  'Image.resize((width, height), Image.Resampling.BILINEAR), which '
  'antialiases; the aspect ratio is ignored. Pixels stay uint8: normalisation is inside.'
)
_TILES = (
  'The model takes tiles, each of image_size, and not whole images. An image is resized to a '
  'canvas: so that tiles (rows, columns) cover it, or by image_size / tile_size. Its tiles lie '
  'at equal distances from one border to the other and share at least overlap of a side with '
  'their neighbours; its score is the highest of theirs, and its map theirs, put together. '
  'memkd predict --model=FILE.onnx, and memkd_jax/data/tiling.py, do that.'
)
_FRAMING = (
  'Before the resizing: with roi, a picture (PNG, base64) that is stretched to the image, or '
  "alpha, the image's own, what is outside (below half) becomes (124, 116, 104). With resize "
  'fit the image is resized as its aspect ratio lets it and laid into the middle, that colour '
  'around it; with crop as much of its middle as fills the canvas is resized. '
  'With roi or fit there is a fourth channel: 255 where any of what a pixel of the canvas '
  'covers is inside, and 0 elsewhere; maps mean nothing there. '
  'With inputs the canvas has four channels for each of these pictures of an object, in this '
  'order, the fourth likewise: rgb is the photograph, depth the heights above the background, '
  'of which depth_range becomes 0 and 255, normals (n + 1) / 2; see docs/depth.md. '
  'memkd predict --model=FILE.onnx, and memkd_jax/data/framing.py, do that.'
)
_USUAL = 'in spreads from the mean of held-out normal images'
_MAPS = {
  'none': 'not normalised',
  'stage': f'{_USUAL}, those of each stage',
  'position': f'{_USUAL}, those of each position of a stage',
}
_SCORES = {
  'max': "the method's own, as a rule the highest value of each map",
  'top': 'the mean of the highest hundredth of each map',
}
_COMPATIBILITY = (
  'Programs of jax.export run, by its guarantees, with later versions of JAX for six months '
  'and with earlier ones for three weeks; beyond that, export again from the folder of the run.'
)


def program(detector: Detector) -> jax_export.Exported:
  """The scoring as a program for all platforms and for any number of images.

  Args:
    detector: the detector whose parameters go into the program.

  Returns:
    uint8 [B, *tile_shape] -> (maps float32 [B, H, W], scores float32 [B]); without gradients.

  Raises:
    UserError: the model computes in float64, or there is one for each place of a grid.
  """
  if detector.trained.config.model.dtype == 'float64':
    raise UserError(
      'A model of --config.model.dtype=float64 cannot be exported, because JAX runs it only '
      'with JAX_ENABLE_X64=1; train it with float32.'
    )

  def score(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps, scores = detector.score(images)
    return maps.astype(jnp.float32), scores.astype(jnp.float32)

  (batch,) = jax_export.symbolic_shape('B')
  images = jax.ShapeDtypeStruct((batch, *detector.tile_shape), np.uint8)
  return jax_export.export(jax.jit(score), platforms=PLATFORMS)(images)


def metadata(detector: Detector, batch: int | None = None) -> dict[str, Any]:
  """What a user of the file must know, as JSON values.

  Args:
    detector: the detector that is exported.
    batch: the number of images that the file takes; any if None.

  Raises:
    UserError: it decides for any category of several.
  """
  if isinstance(detector.calibration, AnyCategory):
    raise UserError('A file decides for one category; name it with --category.')
  model, (height, width, channels) = detector.trained.config.model, detector.tile_shape
  pipeline = detector.program.pipeline
  calibration, threshold = detector.calibration, detector.threshold
  tiling, framing = detector.tiling.to_json(), detector.framing.to_json()
  values: dict[str, Any] = {
    'format': FORMAT if framing is None else SEVERAL if 'inputs' in framing else FRAMED,
    'memkd_jax': memkd_jax.__version__,
    'category': detector.category,
    'image_size': size_value(detector.image_size),
    'tiling': None if tiling is None else tiling | {'meaning': _TILES},
    'framing': None if framing is None else framing | {'meaning': _FRAMING},
    'batch': batch,
    'batch_size': detector.batch_size,
    'bit_depth': detector.bits,
    'resizing': _RESIZING,
    'model': {
      'method': detector.method,
      'backbone': model.backbone,
      'dtype': model.dtype,
    },
    'inputs': {
      'images': f'uint8 [B, {height}, {width}, {channels}], {_channels(detector.framing)}, B '
      f'{batch or "any number from 1"}'
    },
    'outputs': {
      'maps': f'float32 [B, {height}, {width}], anomaly maps: higher is more anomalous; '
      f'{_MAPS[pipeline.normalize]}, not clipped',
      'scores': f'float32 [B], image scores: {_SCORES[pipeline.image_score]}',
    },
    'threshold': None,
    'undecided': detector.undecided,
    'pixel_threshold': None,
    'held_out': None,
    'notes': detector.notes,
  }
  if threshold is not None:
    values['threshold'] = {
      'value': threshold.value,
      'meaning': 'an image is anomalous where its score is higher',
      'false_alarm_rate': threshold.false_alarm_rate,
      'expected': threshold.expected,
      'interval': None if threshold.interval is None else list(threshold.interval),
    }
    meaning = 'the value that this share of the pixels of normal images exceeds'
    if threshold.false_alarm_rate is None:
      meaning = 'that of the image score, which was set by hand'
    values['pixel_threshold'] = {
      'value': detector.pixel_threshold(),
      'meaning': meaning,
      'rate': default_pixel_rate(threshold),
    }
  if calibration is not None:
    # A p-value is (1 + the number of scores that are >= a score) / (1 + their number).
    values['held_out'] = calibration.to_json()
  return values


def write(detector: Detector, out: Path) -> dict[str, Any]:
  """Writes the zip, complete or not at all.

  Args:
    detector: the detector that is exported.
    out: the file; one that is there is replaced.

  Returns:
    What metadata.json holds.

  Raises:
    UserError: see `program`.
    OSError: it cannot be written.
  """
  exported = program(detector)
  content = bytes(exported.serialize())
  values = metadata(detector) | {
    'program': {
      'file': PROGRAM,
      'sha256': hashlib.sha256(content).hexdigest(),
      'platforms': list(exported.platforms),
      'jax': jax.__version__,
      'jaxlib': jaxlib.__version__,
      'calling_convention_version': exported.calling_convention_version,
      'compatibility': _COMPATIBILITY,
    }
  }
  text = json.dumps(values, indent=2, allow_nan=False) + '\n'
  # Stored: parameters do not get 10% smaller by deflating.
  with atomic.atomic_write(out) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
    archive.writestr(_entry(METADATA), text)
    archive.writestr(_entry(PROGRAM), content)
  return values


def _entry(name: str) -> zipfile.ZipInfo:
  entry = zipfile.ZipInfo(name)
  entry.external_attr = 0o644 << 16  # or `unzip` makes a file that nobody may read
  return entry


def _channels(framing: Framing) -> str:
  """What the channels of a canvas are."""
  if framing.inputs == (RGB,):
    return 'RGB and what counts' if framing.channels == 4 else 'RGB'
  return ', then '.join(f'{name} and what counts of it' for name in framing.inputs)
