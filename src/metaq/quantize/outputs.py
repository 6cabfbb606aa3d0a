"""The tensors of a model's output, however deep they lie in it."""

import dataclasses
from collections.abc import Mapping

import torch


def floating_tensors(output: object) -> list[torch.Tensor]:
    """All floating tensors of an output: itself, or those of a mapping, sequence or dataclass; empty ones are left out.

    Outputs of Transformers are mappings. Samples are along the first dimension; a single number is that of one.
    """
    if isinstance(output, torch.Tensor):
        return [output.reshape(output.shape or (1,))] if output.is_floating_point() and output.numel() else []
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, tuple | list):
        parts = list(output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name) for field in dataclasses.fields(output)]
    else:
        return []
    return [tensor for part in parts for tensor in floating_tensors(part)]
