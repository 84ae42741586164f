"""MemKD: memory-guided knowledge distillation for visual anomaly detection, in JAX."""

__version__ = '0.1.0'
