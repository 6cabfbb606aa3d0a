"""The regulariser in Lightning's Trainer; the lines that metaq needs end in ``# metaq``.

``python examples/with_lightning.py model.metaq`` prints what was logged and writes the file.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger

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
    """Train, print what was logged, save to `path`."""
    entropy = EntropyCallback(task.CONFIG, submodule="model")  # metaq
    with tempfile.TemporaryDirectory() as folder:
        logger = CSVLogger(folder)
        trainer = pl.Trainer(
            max_epochs=task.EPOCHS,
            accelerator="cpu",
            devices=1,
            callbacks=[entropy],  # metaq
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Learner(), task.make_loader())
        with Path(logger.experiment.metrics_file_path).open() as log:
            task.print_log(csv.DictReader(log))
    entropy.save(path)  # metaq
    task.print_end(path)


if __name__ == "__main__":
    main(sys.argv[1])
