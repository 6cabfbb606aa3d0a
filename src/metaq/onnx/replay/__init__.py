"""The graph of an ONNX file computed by PyTorch, so that gradients of its outputs over its weights are known."""
