"""Elements of exact tensors as planes: fields of bits that are coded, kept as they are, or nothing but zeros."""
