"""Prepares a data set for TFDS: memkd prepare-tfds."""

import sys

from memkd_jax.commands.prepare_tfds import main

if __name__ == '__main__':
  sys.exit(main())
