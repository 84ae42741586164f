"""Gradient descent: step, loop, checkpoints, logs."""
