"""Any model comes in, as a module, state dict or file; named tensors, what takes part and what may move go out."""
