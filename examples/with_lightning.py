"""The regulariser in Lightning's Trainer; the lines that metaq needs end in ``# metaq``.

``python examples/with_lightning.py model.metaq`` prints the bits per weight after every epoch and writes the file.
"""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LambdaCallback

import task
from metaq.lightning import EntropyCallback  # metaq


class Learner(pl.LightningModule):
    """The task's network and how it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.model = task.make_model()

    def training_step(self, batch: task.Row, _batch_index: int) -> torch.Tensor:
        """Loss of a batch."""
        return self.model(**batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """That of the task."""
        return task.make_optimizer(self.model.parameters())


def main(path: str) -> None:
    """Train, print the curve, save to `path`."""
    curve: list[float] = []
    entropy = EntropyCallback(task.CONFIG, submodule="model")  # metaq

    def note(*_: object) -> None:  # metaq
        curve.append(entropy.regularizer.report().bits_per_weight)  # metaq

    trainer = pl.Trainer(
        max_epochs=task.EPOCHS,
        accelerator="cpu",
        devices=1,
        callbacks=[entropy, LambdaCallback(on_train_epoch_end=note)],  # metaq
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Learner(), task.make_loader())
    entropy.save(path)  # metaq
    task.print_curve(curve)


if __name__ == "__main__":
    main(sys.argv[1])
