"""The published data sets' readers, and the demo's textures."""
