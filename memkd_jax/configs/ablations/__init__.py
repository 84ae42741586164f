"""Sweeps of named variants, each with a table at its end."""
