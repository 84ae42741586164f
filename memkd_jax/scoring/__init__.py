"""From distances to decisions: maps, scores, figures, thresholds."""
