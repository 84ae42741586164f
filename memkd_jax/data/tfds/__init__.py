"""Data sets prepared with TensorFlow Datasets, without TensorFlow."""
