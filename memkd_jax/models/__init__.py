"""Flax modules: teacher, bottleneck, student, memory, and their assembly."""
