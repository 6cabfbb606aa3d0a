"""Makes a classifier of the pictures in a folder, first as usual, then small.

``python examples/image_folder.py PICTURES model.metaq`` takes a folder with a folder of pictures for every class. A
fifth of the pictures is held out, half of it to judge by and half for the figures at the end. ``--weights model.pth``
begins with a network that is trained already, and ``--max-drop 1`` says how many points of accuracy it may lose.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from metaq import EntropyRegularizer, load

SIZE = 32
BATCH_SIZE = 32
WIDTH = 32
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def read_pictures(folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Pictures of shape (number, 3, SIZE, SIZE) between -1 and 1, their classes, and the classes' names."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pictures, labels = [], []
    for label, name in enumerate(names):
        for path in sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES):
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB").resize((SIZE, SIZE)), dtype=np.float32))
            labels.append(label)
    if len(names) < 2 or len(pictures) < 10 * len(names):
        raise SystemExit(
            f"{folder}: a folder for each of two classes or more is needed, with ten pictures or more each."
        )
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1, torch.tensor(labels), names


def make_model(classes: int) -> nn.Module:
    """A small convolutional network with batch normalisation."""
    widths = [3, WIDTH, 2 * WIDTH, 2 * WIDTH]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], classes))


def accuracy(model: nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of the pictures that are right."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(dim=1) for part in pictures.split(256)])
    model.train()
    return 100 * float((found == labels).double().mean())


def train_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> None:
    """One pass over the pictures, half of them mirrored."""
    for pictures, labels in loader:
        mirrored = torch.where(torch.rand(len(pictures), 1, 1, 1) < 0.5, pictures.flip(3), pictures)
        optimizer.zero_grad()
        functional.cross_entropy(model(mirrored), labels).backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of folders of pictures")
    parser.add_argument("out", type=Path, help="the .metaq file")
    parser.add_argument("--weights", type=Path, help="state dict of a trained network")
    parser.add_argument("--epochs", type=int, default=20, help="of each of the two trainings")
    parser.add_argument("--max-drop", type=float, default=1.0, help="points of accuracy that may be lost")
    options = parser.parse_args()
    torch.manual_seed(0)
    pictures, labels, names = read_pictures(options.pictures)
    order = torch.randperm(len(labels))
    held_out = len(labels) // 10
    judging, reporting, training = order.split([held_out, held_out, len(labels) - 2 * held_out])
    dataset = TensorDataset(pictures[training], labels[training])
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=len(dataset) > BATCH_SIZE)
    model = make_model(len(names))

    if options.weights:
        model.load_state_dict(torch.load(options.weights, weights_only=True))
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=options.epochs)
        for _ in range(options.epochs):
            train_epoch(model, loader, optimizer)
            schedule.step()
    before = accuracy(model, pictures[reporting], labels[reporting])

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    steps = options.epochs * len(loader)
    goal = {"max_drop": options.max_drop, "larger_is_better": True}
    regularizer = EntropyRegularizer(model, total_steps=steps, **goal).attach(optimizer)
    regularizer.observe(accuracy(model, pictures[judging], labels[judging]))
    for _ in range(options.epochs):
        train_epoch(model, loader, optimizer)
        regularizer.observe(accuracy(model, pictures[judging], labels[judging]))
    regularizer.finish(evaluate=lambda: accuracy(model, pictures[judging], labels[judging]))
    report = regularizer.save(options.out)

    restored = make_model(len(names))
    restored.load_state_dict(load(options.out))
    after = accuracy(restored, pictures[reporting], labels[reporting])
    floats = report.coverage.tensor_bytes
    print(f"{floats:,} bytes, {before:.1f} % right, became {report.file_bytes:,} bytes, {after:.1f} % right")


if __name__ == "__main__":
    main()
