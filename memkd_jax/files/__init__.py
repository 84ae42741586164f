"""Files that are complete or absent, read with care, and one process for one folder."""
