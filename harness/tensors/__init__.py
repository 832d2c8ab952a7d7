"""Tensors on disk, their dtypes, and fingerprints."""
