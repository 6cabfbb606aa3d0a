"""What operators of ONNX make of their inputs: weights, or numbers that must stay as they are.

Operators are known by their names in whatever domain, those of ONNX and of ONNX Runtime (com.microsoft). Whatever is
not in these tables takes constants.
"""

from collections.abc import Container
from enum import IntEnum
from typing import NamedTuple

ALL = range(1 << 62)
"""Positions of all inputs."""

WEIGHTS: dict[str, Container[int]] = {
    # Convolutions and products of matrices
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "FusedConv": (1, 2),
    "NhwcFusedConv": (1, 2),
    "Gemm": ALL,
    "FusedGemm": ALL,
    "MatMul": ALL,
    "FusedMatMul": ALL,
    "TransposeMatMul": ALL,
    "Einsum": ALL,
    # Tables of embeddings
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    # Recurrent layers
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    # Normalisations, and slopes and biases of activations
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "RMSNormalization": (1,),
    "GroupNormalization": (1, 2),
    "GroupNorm": (1, 2),
    "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3),
    "SkipGroupNorm": (1, 2, 4),
    "EmbedLayerNormalization": (2, 3, 4, 5, 6),
    "PRelu": (1,),
    "BiasAdd": (1,),
    "BiasGelu": (1,),
    "BiasSplitGelu": (1,),
    "FastGelu": (1,),
    # Attention and mixtures of experts
    "Attention": (1, 2),
    "PackedAttention": (1, 2),
    "MultiHeadAttention": (3,),
    "DecoderMaskedMultiHeadAttention": (10,),
    "MoE": (2, 3, 4, 5, 6, 7),
    # Quantised layers: integers, and biases that are added as they are
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (1, 6),
    "MatMulNBits": (1, 5),
    "MatMulBnb4": (1,),
    "DynamicQuantizeMatMul": (1, 4),
    "DynamicQuantizeLSTM": (1, 2, 3, 7),
    "GatherBlockQuantized": (0,),
    "QAttention": (1, 2),
    "QGemm": (3,),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
    "QMoE": (2, 5, 8),
}
"""Positions of inputs that are weights, by the operator."""

SUMMANDS: dict[str, Container[int]] = {"Add": ALL, "Mul": ALL, "Sum": ALL, "Div": (0,)}
"""Positions of inputs that are weights, such as biases, if they are vectors or more and of some length."""

PASSED: dict[str, Container[int]] = {
    "Identity": (0,),
    "Cast": (0,),
    "CastLike": (0,),
    "Dropout": (0,),
    "Transpose": (0,),
    "Reshape": (0,),
    "Flatten": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Concat": ALL,
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
}
"""Positions of inputs that an operator gives on, so that the next one tells what they are."""

STATISTICS = "running statistics of batch normalisation"
EXACT: dict[str, tuple[Container[int], str]] = {
    "BatchNormalization": ((3, 4), STATISTICS),
    # Anchors of a detector, which are added too.
    "Sub": (ALL, "a constant of Sub"),
}
"""Positions of inputs that must stay as they are whatever else takes them, and why."""

SCALED = (
    "Quantize",
    "Dequantize",
    "DynamicQuantize",
    "QLinear",
    "QOrdered",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QMoE",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlockQuantized",
)
"""What operators on quantised tensors begin with: all their other inputs are scales and zero points."""


class Kind(IntEnum):
    """What a tensor is to an operator; of several, the least counts."""

    EXACT, WEIGHT, SUMMAND, CONSTANT, UNUSED = range(5)


class Use(NamedTuple):
    """What a tensor is to an operator, and why it must stay as it is if it is no weight."""

    kind: Kind
    reason: str


OTHER_SCALE = Use(Kind.EXACT, "scale of integers")
"""Of what the scale of a layer's inputs is multiplied by: the scale of its weights."""

UNUSED = Use(Kind.UNUSED, "no operator takes it")


def use_of(operator: str, position: int) -> Use | None:
    """What an operator makes of its input at a position; None if the next one tells."""
    if position in PASSED.get(operator, ()):
        return None
    if position in WEIGHTS.get(operator, ()):
        return Use(Kind.WEIGHT, "")
    exact, reason = EXACT.get(operator, ((), ""))
    if position in exact:
        return Use(Kind.EXACT, reason)
    if operator.startswith(SCALED):
        return Use(Kind.EXACT, f"scale or zero point of {operator}")
    kind = Kind.SUMMAND if position in SUMMANDS.get(operator, ()) else Kind.CONSTANT
    return Use(kind, f"a constant of {operator}")
