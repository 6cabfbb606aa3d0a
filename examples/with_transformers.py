"""The regulariser in the Trainer of Transformers; the lines that metaq needs end in ``# metaq``.

``python examples/with_transformers.py model.metaq`` prints what was logged and writes the file.
"""

from __future__ import annotations

import sys
import tempfile

from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

import task
from metaq.transformers import EntropyTrainerCallback  # metaq


class Learner(Trainer):
    """Takes the batches in the order of the task."""

    def _get_train_sampler(self, *_: object) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main(path: str) -> None:
    """Train, print what was logged, save to `path`."""
    model = task.make_model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=task.EPOCHS,
            per_device_train_batch_size=task.BATCH_SIZE,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Learner(
            model,
            arguments,
            train_dataset=task.Rows(),
            optimizers=(task.make_optimizer(model.parameters()), None),
        )
        entropy = EntropyTrainerCallback(task.CONFIG).attach(trainer)  # metaq
        trainer.train()
        entropy.save(path)  # metaq
    task.print_log(trainer.state.log_history)
    task.print_end(path)


if __name__ == "__main__":
    main(sys.argv[1])
