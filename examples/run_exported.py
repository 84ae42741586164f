"""Scores images with an exported model: python run_exported.py bottle.memkd IMAGE ...

Needs jax, flatbuffers (with which jax.export reads), numpy and pillow alone.
"""

import json
import sys
import zipfile

import jax
import jax.export
import numpy as np
from PIL import Image, ImageOps

with zipfile.ZipFile(sys.argv[1]) as file:
  metadata = json.loads(file.read('metadata.json'))
  content = bytearray(file.read('model.jaxexport'))
try:
  model = jax.export.deserialize(content)
except Exception as error:  # of whatever kind this version finds it to be
  sys.exit(
    f'{sys.argv[1]} was written with jax {metadata["program"]["jax"]} and cannot be read with '
    f'jax {jax.__version__} ({error}): install that version, or export again.'
  )
if metadata['tiling'] is not None or metadata.get('framing') is not None:
  sys.exit(
    f'{sys.argv[1]} takes other images than whole ones that are stretched, and this example '
    'makes none: export an ONNX file and run memkd predict --model=FILE.onnx.'
  )
size = metadata['image_size']  # of a square, or [height, width]
size = (size, size) if isinstance(size, int) else tuple(size[::-1])


def read(path: str) -> Image.Image:
  """Reads an image as RGB; of 16 bits per channel, those count that the camera fills."""
  image = ImageOps.exif_transpose(Image.open(path))
  if image.mode.startswith('I'):  # which Pillow's own conversion would clip at 255
    values = np.asarray(image) * (255 / (2 ** metadata['bit_depth'] - 1))
    image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
  return image.convert('RGB')


resized = [read(path).resize(size, Image.Resampling.BILINEAR) for path in sys.argv[2:]]
pixels = np.stack([np.asarray(image) for image in resized])
maps, scores = jax.jit(model.call)(pixels)
threshold = metadata['threshold']
for path, score in zip(sys.argv[2:], np.asarray(scores), strict=True):
  decision = ''
  if threshold is not None:
    decision = 'ANOMALOUS' if score > threshold['value'] else 'normal'
  print(f'{path}\t{score:.7f}\t{decision}')
