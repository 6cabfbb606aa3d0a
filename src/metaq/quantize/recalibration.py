"""Statistics of batch normalisation measured anew: those of the original weights do not fit the quantised ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from metaq.model.checkpoint import StateDict
from metaq.quantize.curvature import Batch, call, copied


def recalibrated(model: nn.Module, batches: Iterable[Batch], weights: StateDict) -> StateDict:
    """Running means and variances over `batches` under `weights`, by their names in the state dict.

    Everything but batch normalisation is in evaluation mode; normalisations without running statistics, and those that
    no batch reaches, are left out. `model` is not changed.
    """
    measured = copied(model)
    measured.load_state_dict(weights)
    norms = {name: module for name, module in measured.named_modules() if isinstance(module, _BatchNorm)}
    tracking = {name: norm for name, norm in norms.items() if norm.track_running_stats}
    for norm in tracking.values():
        norm.reset_running_stats()
        # A cumulative average: every batch counts the same.
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in batches:
            call(measured, batch)
    return {
        f"{name}.{kind}" if name else kind: getattr(norm, kind).detach().clone()
        for name, norm in tracking.items()
        for kind in ("running_mean", "running_var")
        if norm.num_batches_tracked
    }
