"""From files to uint8 arrays in memory: readers, decoding, order, demo textures."""
