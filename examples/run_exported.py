"""Scores images with an exported model; needs jax, flatbuffers and pillow, not memkd_jax."""

import json
import sys
import zipfile

import numpy as np
from jax import export
from PIL import Image, ImageOps

model, *paths = sys.argv[1:]
with zipfile.ZipFile(model) as archive:
  metadata = json.loads(archive.read('metadata.json'))
  program = export.deserialize(bytearray(archive.read('model.jaxexport')))
size = (metadata['image_size'],) * 2
for path in paths:
  image = ImageOps.exif_transpose(Image.open(path)).convert('RGB')
  square = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
  maps, scores = program.call(square[None])
  limit = (metadata['threshold'] or {}).get('value', float('nan'))
  print(path, float(scores[0]), 'anomalous' if scores[0] > limit else 'normal')
