"""Scores anomaly maps of any method: memkd score-maps."""

import sys

from memkd_jax.commands.score_maps import main

if __name__ == '__main__':
  sys.exit(main())
