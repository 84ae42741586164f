"""Three textures with painted defects, made on the spot: shows that all works.

The teacher is random, so the figures mean nothing.

  python -m memkd_jax.main --config=configs/demo.py
"""

from memkd_jax.demo_config import get_config

__all__ = ['get_config']
