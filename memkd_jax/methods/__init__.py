"""How a family of detectors learns what is normal."""
