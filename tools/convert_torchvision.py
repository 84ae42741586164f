"""Converts a torchvision ImageNet ResNet into the folded Flax teacher.

  python tools/convert_torchvision.py --arch=resnet18 --out=weights/resnet18.safetensors
  python tools/convert_torchvision.py --arch=resnet18 --source=resnet18-f37072fd.pth \\
      --out=weights/resnet18.safetensors --check

The first downloads the weights to the folder of --out; docs/weights.md has more.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from memkd_jax.errors import UserError, explain
from memkd_jax.models.resnet import BACKBONES
from memkd_jax.teachers import conversion, download, parity

_ARCH = flags.DEFINE_enum('arch', None, list(BACKBONES), 'Architecture.', required=True)
_SOURCE = flags.DEFINE_string(
  'source', None, 'State dict: .safetensors, or .pth / .pt (needs torch); none: downloaded.'
)
_OUT = flags.DEFINE_string('out', None, 'The safetensors file to write.', required=True)
_DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', conversion.DTYPES, 'How values are stored; bfloat16 halves the file.'
)
_CHECK = flags.DEFINE_bool('check', False, 'Compare the result with torch, stage by stage.')
_IMAGES = flags.DEFINE_string(
  'images', None, "Folder of images for --check; none: scikit-image's photographs."
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  try:
    _convert()
  except UserError as error:
    sys.exit(f'convert_torchvision: {error}')
  except OSError as error:
    what = explain(error) if error.filename else f'cannot write {_OUT.value}: {error.strerror}.'
    sys.exit(f'convert_torchvision: {what}')
  except KeyboardInterrupt:
    sys.exit('convert_torchvision: interrupted; the same command goes on.')


def _convert() -> None:
  arch, out = _ARCH.value, Path(_OUT.value).expanduser()
  if _CHECK.value:
    conversion.import_torch('--check')
  if _SOURCE.value is not None:
    source = Path(_SOURCE.value).expanduser()
  else:
    conversion.import_torch('The file to download (a .safetensors --source does not)')
    source = download.imagenet_weights(arch, out.parent)
  stages = conversion.convert(source, arch, out, _DTYPE.value)
  print(f'{out}: {arch}, stages {stages}, {_DTYPE.value}')
  if _CHECK.value:
    folder = _IMAGES.value and Path(_IMAGES.value).expanduser()
    try:
      print(parity.compare(source, out, folder))
    except UserError:
      out.unlink()  # a wrong teacher must not lie where the training looks for it
      raise


if __name__ == '__main__':
  app.run(main)
