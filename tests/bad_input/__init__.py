"""Feeds damaged and hostile files to whatever reads files; see `test_bad_input.py`."""
