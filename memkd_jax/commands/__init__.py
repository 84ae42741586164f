"""Commands that need no trained model."""
