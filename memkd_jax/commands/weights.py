"""Converts a torchvision ImageNet ResNet into the folded Flax teacher.

  memkd weights --arch=resnet18 --out=weights/resnet18.safetensors
  memkd weights --arch=resnet18 --source=resnet18-f37072fd.pth \\
      --out=weights/resnet18.safetensors --check

The first downloads the weights, and leaves only what they are converted to; docs/weights.md
has more.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memkd_jax import cli
from memkd_jax.config import BACKBONES
from memkd_jax.errors import UserError
from memkd_jax.runtime import interrupt


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (something failed) or 75 (stopped)."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('weights', lambda: _run(flags), '; the same command goes on')


def _run(flags: argparse.Namespace) -> None:
  with interrupt.handled():
    try:
      _convert(flags)
    except OSError as error:
      if error.filename:
        raise
      raise UserError(f'cannot write {flags.out}: {error.strerror}.') from error


def _convert(flags: argparse.Namespace) -> None:
  from memkd_jax.teachers import conversion, download, parity

  out = Path(flags.out).expanduser()
  if flags.check:
    conversion.import_torch('--check')
  if flags.source is not None:
    source = Path(flags.source).expanduser()
  else:
    source = download.imagenet_weights(flags.arch, out)
  stages = conversion.convert(source, flags.arch, out, flags.dtype, flags.prefix)
  print(f'{out}: {flags.arch}, stages {stages}, {flags.dtype}')
  if flags.check:
    folder = flags.images and Path(flags.images).expanduser()
    try:
      print(parity.compare(source, out, folder, flags.prefix))
    except UserError:
      out.unlink()  # a wrong teacher must not lie where the training looks for it
      raise
  if flags.source is None:
    source.unlink()


def _parser() -> cli.Parser:
  parser = cli.Parser('weights', "Converts torchvision's weights of a ResNet into a teacher.")
  add = parser.add_argument
  add('--arch', required=True, choices=BACKBONES, help='architecture')
  add('--out', required=True, metavar='FILE', help='the safetensors file to write')
  add(
    '--source',
    metavar='FILE',
    help='state dict: .safetensors, .pth or .pt; downloaded if left out',
  )
  add(
    '--prefix',
    metavar='NAME',
    help='which of several networks in --source: what stands before its names, encoder_q for '
    'example',
  )
  add(
    '--dtype',
    default='float32',
    choices=('float32', 'bfloat16'),
    help='how values are stored; bfloat16 halves the file',
  )
  add(
    '--check',
    action=argparse.BooleanOptionalAction,
    default=False,
    help='compare the result with torch, stage by stage',
  )
  add(
    '--images',
    metavar='FOLDER',
    help="images for --check; scikit-image's photographs if left out",
  )
  return parser
