"""A network fine-tuned to rotated digits in as few bytes as possible, beside all of a fine-tuning.

    python benchmarks/rotated.py --data-dir DATA --seeds 3

The LeNet-5 that metaq ships (models/lenet5-mnist.metaq) is trained on MNIST's digits turned by --angle degrees: once
all of its weights, as usual, and once its convolutions alone towards an update of at most --bytes bytes
(`EntropyRegularizer(base=…)`), for the same epochs. Accuracies are of the weights that the update gives, on turned
test images; the gain is what they have over the network as it was, as a share of what the whole fine-tuning gains.
Settings were found on the validation images with seed 1. Some minutes a seed on one core; --quick takes scikit-learn's
digits.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import metaq
from metaq import EntropyRegularizer, RegularizerConfig
from metaq.lab import nets
from metaq.lab.data import ImageDataset, load, to_float
from support.results import tell, write_json

MODEL = Path(__file__).parents[1] / "models" / "lenet5-mnist.metaq"
TRAINED = "conv"
BATCH_SIZE = 128
WHOLE_RATE, UPDATE_RATE = 2e-3, 2.5e-3

Images = tuple[torch.Tensor, torch.Tensor]
Row = dict[str, Any]


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    data = load("digits" if options.quick else "mnist", data_dir=None if options.quick else options.data_dir)
    train, test = turned(data.train, options.angle), turned(data.test, options.angle)
    rows = [of_seed(seed, train, test, options) for seed in range(2, 2 + options.seeds)]
    for row in rows:
        tell(row)
    shares = [row["gain_share"] for row in rows]
    tell(f"share of the gain: {statistics.median(shares):.1%}, {min(shares):.1%} to {max(shares):.1%}")
    write_json({"command": sys.argv, "rows": rows}, options.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="folder of MNIST; else $METAQ_DATA")
    parser.add_argument("--angle", type=float, default=30.0, help="degrees [default: 30]")
    parser.add_argument("--bytes", type=int, default=200, help="most bytes of the update [default: 200]")
    parser.add_argument("--epochs", type=int, default=20, help="of both trainings [default: 20]")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings [default: 3]")
    parser.add_argument("--quick", action="store_true", help="other digits and two epochs, for seconds")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.seeds = 2, 1
    return options


def turned(images: ImageDataset, degrees: float) -> Images:
    """All images, turned about their middle, and their labels."""
    pixels = to_float(images.images)
    pixels = pixels.reshape(len(pixels), 1, *pixels.shape[-2:])
    lowest, radians = pixels.amin(), math.radians(degrees)
    rotation = torch.tensor([[math.cos(radians), -math.sin(radians), 0], [math.sin(radians), math.cos(radians), 0]])
    grid = functional.affine_grid(rotation.expand(len(pixels), 2, 3), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels - lowest, grid, align_corners=False) + lowest, images.labels.long()


def of_seed(seed: int, train: Images, test: Images, options: argparse.Namespace) -> Row:
    """What both trainings reach from one seed."""
    base = metaq.load(MODEL)
    before = percent(network(base), test)
    whole = network(base)
    fit(whole, train, options.epochs, WHOLE_RATE, seed, lambda _: None)
    model = network(base)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    config = RegularizerConfig(include=(f"{TRAINED}*",))

    def regularizer(steps: int) -> EntropyRegularizer:
        return EntropyRegularizer(model, config, base=base, total_steps=steps, target_bytes=options.bytes)

    made = fit(model, train, options.epochs, UPDATE_RATE, seed, regularizer)
    assert made is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update.metaq"
        made.save(path)
        size, weights = path.stat().st_size, metaq.load(path, base=base)
    after, most = percent(network(weights), test), percent(whole, test)
    share = (after - before) / (most - before) if most != before else 0.0
    return {"seed": seed, "bytes": size, "before": before, "whole": most, "update": after, "gain_share": share}


def network(weights: dict[str, torch.Tensor]) -> nn.Module:
    """The network with these weights."""
    model = nets.create("lenet5")
    nets.load_weights(model, weights)
    return model


def fit(
    model: nn.Module,
    images: Images,
    epochs: int,
    rate: float,
    seed: int,
    regularizer: Callable[[int], EntropyRegularizer | None],
) -> EntropyRegularizer | None:
    """Train in place, the learning rate falling as a cosine; the regulariser for so many steps, at its end."""
    torch.manual_seed(seed)
    pixels, labels = images
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=rate)
    steps = epochs * math.ceil(len(pixels) / BATCH_SIZE)
    made = regularizer(steps)
    if made is not None:
        made.attach(optimizer)
    step = 0
    for _ in range(epochs):
        for batch in torch.randperm(len(pixels)).split(BATCH_SIZE):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            step += 1
            optimizer.zero_grad()
            functional.cross_entropy(model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
    if made is not None:
        made.finish()
    return made


@torch.no_grad()
def percent(model: nn.Module, images: Images) -> float:
    """Accuracy."""
    model.eval()
    pairs = zip(images[0].split(1000), images[1].split(1000), strict=True)
    hits = sum(int((model(pixels).argmax(dim=1) == labels).sum()) for pixels, labels in pairs)
    model.train()
    return 100 * hits / len(images[1])


if __name__ == "__main__":
    main()
