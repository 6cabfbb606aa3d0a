"""From a trained module to its file, in the one process that writes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from metaq import container
from metaq.compression.trained import trained_tensors
from metaq.container import WriteReport
from metaq.model.opened import open_model
from metaq.model.selection import select_gridded
from metaq.model.sharding import in_one_process, is_sharded
from metaq.tensors.grid import BucketGrid


def write(
    path: str | os.PathLike[str],
    model: nn.Module,
    grids: Mapping[str, BucketGrid],
    *,
    metadata: Mapping[str, str | int | float] | None,
    coder: str,
) -> WriteReport:
    """Write the weights that `model` holds on their `grids`; see :meth:`metaq.regularizer.base.Regularizer.save`."""
    parameters = list(model.parameters())
    # Sharded weights are gathered by all processes together; of replicas, one is enough.
    gathered = trained_tensors(model, grids, coder=coder) if any(map(is_sharded, parameters)) else None

    def write_here() -> WriteReport:
        tensors = gathered or trained_tensors(model, grids, coder=coder)
        return container.write(path, tensors, metadata=metadata, coder=coder)

    report = in_one_process(parameters, write_here, getattr(model, "process_group", None))
    reasons = select_gridded(open_model(model), grids).reasons
    return replace(report, coverage=report.coverage.explained(reasons))
