"""Bucket indices in, bytes out, and back: the coders ``small`` and ``fast``, constants, and zstd for exact tensors."""
