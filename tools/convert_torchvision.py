"""Converts a torchvision ImageNet ResNet into the folded Flax teacher.

  python tools/convert_torchvision.py --arch=resnet18 \\
      --source=resnet18-f37072fd.pth --out=weights/resnet18.safetensors
"""

import sys

from absl import app, flags, logging

from memkd_jax import conversion
from memkd_jax.errors import UserError
from memkd_jax.models.resnet import BACKBONES

_ARCH = flags.DEFINE_enum('arch', None, list(BACKBONES), 'Architecture.', required=True)
_SOURCE = flags.DEFINE_string(
  'source', None, 'State dict: .safetensors, or .pth / .pt (needs torch).', required=True
)
_OUT = flags.DEFINE_string('out', None, 'The safetensors file to write.', required=True)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  try:
    stages = conversion.convert(_SOURCE.value, _ARCH.value, _OUT.value)
  except UserError as error:
    sys.exit(f'convert_torchvision: {error}')
  except OSError as error:
    sys.exit(f'convert_torchvision: cannot write {_OUT.value}: {error.strerror}.')
  print(f'{_OUT.value}: {_ARCH.value}, stages {stages}')


if __name__ == '__main__':
  app.run(main)
