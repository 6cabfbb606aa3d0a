"""Every process holds a part of every parameter; the lines that metaq needs end in ``# metaq``.

``torchrun --nproc-per-node 2 examples/with_fsdp2.py model.metaq`` prints the bits per weight of every epoch and writes
the file.
"""

from __future__ import annotations

import sys

import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import task
from metaq import EntropyRegularizer  # metaq


def main(path: str) -> None:
    """Train, print the curve, save to `path`."""
    dist.init_process_group("gloo")
    model, loader = task.make_model(), task.make_loader(rank=dist.get_rank(), world_size=dist.get_world_size())
    for layer in model.children():
        fully_shard(layer)
    fully_shard(model)
    optimizer = task.make_optimizer(model.parameters())
    regularizer = EntropyRegularizer(model, task.CONFIG, total_steps=task.STEPS).attach(optimizer)  # metaq
    curve = []
    for _ in range(task.EPOCHS):
        for batch in loader:
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            optimizer.step()
        curve.append(regularizer.report().bits_per_weight)  # metaq
    regularizer.save(path)  # metaq
    if dist.get_rank() == 0:
        task.print_curve(curve)
        task.print_end(path)


if __name__ == "__main__":
    main(sys.argv[1])
    task.leave_group()
