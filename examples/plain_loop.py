"""Three lines in a loop of one's own; they end in ``# metaq``.

``python examples/plain_loop.py model.metaq`` prints the bits per weight after every epoch and writes the file.
"""

from __future__ import annotations

import sys

import task
from metaq import EntropyRegularizer  # metaq


def main(path: str) -> None:
    """Train, print the curve, save to `path`."""
    model, loader = task.make_model(), task.make_loader()
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
    task.print_curve(curve)
    task.print_end(path)


if __name__ == "__main__":
    main(sys.argv[1])
