"""What readers of a page bring along: names that its programs take as given, and files that its commands read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import metaq

EPOCHS = 2
FEATURES, CLASSES = 64, 3


class Network(nn.Module):
    """Gives logits; where it is told the labels, the loss too, as networks of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, 100)
        self.output = nn.Linear(100, CLASSES)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.output(torch.tanh(self.hidden(inputs)))
        return logits if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def of_loop() -> dict[str, Any]:
    inputs, targets = torch.randn(96, FEATURES), torch.randint(0, CLASSES, (96,))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=16)
    return {"model": Network(), "loader": loader, "epochs": EPOCHS}


def of_own_loop() -> dict[str, Any]:
    names = of_loop()
    inputs, targets = names["loader"].dataset.tensors

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(inputs).argmax(dim=1) == targets).double().mean())

    return {**names, "make_model": Network, "loss_fn": nn.functional.cross_entropy, "evaluate": evaluate}


def of_lightning() -> dict[str, Any]:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Network()

        def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    return {**of_loop(), "module": Module()}


def training_arguments() -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir="trainer",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=8,
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


def of_transformers() -> dict[str, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    dataset = [{"input_ids": torch.randint(0, 100, (12,)), "labels": torch.tensor(row % 2)} for row in range(32)]
    return {"model": BertForSequenceClassification(config), "arguments": training_arguments(), "dataset": dataset}


def of_readme() -> dict[str, Any]:
    names = of_lightning()
    inputs, targets = names["loader"].dataset.tensors
    dataset = [{"inputs": one, "labels": label} for one, label in zip(inputs, targets, strict=True)]
    calibration_inputs = torch.randn(300, FEATURES).split(50)
    arguments = training_arguments()
    return {**names, "arguments": arguments, "dataset": dataset, "calibration_inputs": calibration_inputs}


def of_updates() -> dict[str, Any]:
    base, new = (Network().state_dict() for _ in range(2))
    return {**of_loop(), "base": base, "new": new, "steps": 6}


NAMES: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": of_readme,
    "docs/how-to/own-loop.md": of_own_loop,
    "docs/how-to/lightning.md": of_lightning,
    "docs/how-to/transformers.md": of_transformers,
    "docs/how-to/torchrun.md": of_loop,
    "docs/how-to/updates.md": of_updates,
}
"""Makes the names that a page takes as given; programs of all other pages stand alone."""


def make_folder(place: Path) -> None:
    """A model folder, as that of all-MiniLM-L6-v2 but tiny."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(place / "all-MiniLM-L6-v2")


def make_calibrated_folder(place: Path) -> None:
    """The same with a tokenizer, and sentences for it."""
    from transformers import BertTokenizerFast

    make_folder(place)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = place / "all-MiniLM-L6-v2" / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(place / "all-MiniLM-L6-v2")
    sentences = [" ".join(words[5 + (7 * n + k) % 26] for k in range(3 + n % 9)) for n in range(60)]
    (place / "sentences.txt").write_text("\n".join(sentences))


def make_checkpoint(place: Path) -> None:
    """A checkpoint of a network that is not trained."""
    torch.save(Network().state_dict(), place / "model.pth")


def make_versions(place: Path) -> None:
    """Checkpoints of a network as it goes on changing, and the file of the first one that is on a phone."""
    weights = Network().state_dict()
    metaq.compress(weights).save(place / "phone.metaq")
    for version in range(1, 4):
        torch.save(weights, place / f"v{version}.pth")
        weights = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in weights.items()}


FILES: dict[str, Callable[[Path], None]] = {
    "README.md": make_folder,
    "docs/choosing.md": make_checkpoint,
    "docs/folders.md": make_folder,
    "docs/how-to/calibration.md": make_calibrated_folder,
    "docs/how-to/updates.md": make_versions,
}
"""Makes the files that a page takes as given beside those of the repository's ``models``."""


@pytest.fixture
def bring_names() -> Callable[[str], dict[str, Any]]:
    """From a page to the names that its readers bring along, the same ones whenever they are asked for."""

    def bring(page: str) -> dict[str, Any]:
        torch.manual_seed(0)
        return NAMES.get(page, dict)()

    return bring


@pytest.fixture
def bring_files() -> Callable[[str, Path], None]:
    """From a page and a folder to the files in it that its readers bring along."""

    def bring(page: str, place: Path) -> None:
        torch.manual_seed(0)
        if page in FILES:
            FILES[page](place)

    return bring
