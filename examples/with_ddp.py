"""Every process trains on its share of every batch; the lines that metaq needs end in ``# metaq``.

``torchrun --nproc-per-node 2 examples/with_ddp.py model.metaq`` prints the bits per weight after every epoch and writes
the file.
"""

from __future__ import annotations

import sys

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import task
from metaq import EntropyRegularizer  # metaq


def main(path: str) -> None:
    """Train, print the curve, save to `path`."""
    dist.init_process_group("gloo")
    loader = task.make_loader(rank=dist.get_rank(), world_size=dist.get_world_size())
    model = DistributedDataParallel(task.make_model())
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
