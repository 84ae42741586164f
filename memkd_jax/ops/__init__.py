"""Arithmetic of arrays, without flax."""
