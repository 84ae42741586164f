"""The inspection server: see docs/serving.md."""
