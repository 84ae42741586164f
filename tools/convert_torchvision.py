"""Converts a torchvision ResNet into a teacher: memkd weights."""

import sys

from memkd_jax.commands.weights import main

if __name__ == '__main__':
  sys.exit(main())
