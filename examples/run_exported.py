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
  model = jax.export.deserialize(bytearray(file.read('model.jaxexport')))
size = metadata['image_size'], metadata['image_size']
images = [ImageOps.exif_transpose(Image.open(path)).convert('RGB') for path in sys.argv[2:]]
resized = [image.resize(size, Image.Resampling.BILINEAR) for image in images]
pixels = np.stack([np.asarray(image) for image in resized])
maps, scores = jax.jit(model.call)(pixels)
threshold = metadata['threshold']
for path, score in zip(sys.argv[2:], np.asarray(scores), strict=True):
  decision = ''
  if threshold is not None:
    decision = 'ANOMALOUS' if score > threshold['value'] else 'normal'
  print(f'{path}\t{score:.7f}\t{decision}')
