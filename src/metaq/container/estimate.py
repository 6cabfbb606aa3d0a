"""About how much a file will take, sooner than it could be made."""

from collections.abc import Sequence

import numpy as np

from metaq.coding.chunks import StreamShape
from metaq.coding.context import small
from metaq.container import layout
from metaq.tensors.quantized import QuantizedTensor, Tensor


def estimated_bits(tensors: Sequence[Tensor]) -> float:
    """Bits of all bucket indices by the coder ``"small"`` but for some per cent, in a time that hardly grows.

    Headers, bases and what is kept exactly do not count.
    """
    quantized = [tensor for tensor in tensors if isinstance(tensor, QuantizedTensor) and tensor.indices.size]
    shapes = [
        StreamShape(
            count=tensor.indices.size,
            alphabet_size=tensor.grid.count,
            row_length=layout.row_length(tensor.shape, tensor.scan),
            trellis_bits=tensor.trellis_bits,
        )
        for tensor in quantized
    ]
    symbols = [np.ascontiguousarray(tensor.scanned(), dtype=np.int32) for tensor in quantized]
    return small.estimated_bits(symbols, shapes)
