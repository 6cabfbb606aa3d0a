"""Networks as ONNX files with small integers for weights; needs ``pip install 'metaq-torch[onnx]'``."""

from metaq.onnx.exporting import Exported, export
from metaq.onnx.rewriting import with_integers

__all__ = ["Exported", "export", "with_integers"]
