"""Networks as ONNX files with small integers for weights; needs ``pip install 'metaq-torch[onnx]'``."""

from metaq.onnx.exporting import Exported, export

__all__ = ["Exported", "export"]
