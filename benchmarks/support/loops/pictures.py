"""Networks that classify handwritten digits, or photographs: CIFAR-10's at half their width and height."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from metaq.lab import data as datasets
from metaq.lab import nets
from metaq.lab.nets.photographs import CIFAR10_MEAN, CIFAR10_STANDARD_DEVIATION, Block, Standardize
from support.loops.base import Batch, Classification, Parts, cosine, one_cycle
from support.loops.nets import TransformerBlock

SIDE = 16
TRAIN_COUNT, HELD_OUT_COUNT = 20_000, 4_000
CLASSES = 10
VARIED = datasets.CropAndFlip(padding_pixels=2)


class Digits(Classification):
    """LeNet-5 on scikit-learn's digits, by AdamW with a cosine."""

    name: ClassVar[str] = "digits"
    steps: ClassVar[int] = 1000
    batch_size: ClassVar[int] = 64

    @override
    def load(self, data: Path | None) -> Parts:
        return handwriting("digits", None)

    @override
    def network(self) -> nn.Module:
        return nets.create("lenet5")

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [AdamW(self.model.parameters(), lr=3e-3, weight_decay=1e-2)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps)


class Mnist(Classification):
    """LeNet-5 on MNIST, by Adam with one cycle."""

    name: ClassVar[str] = "mnist"
    steps: ClassVar[int] = 1500
    batch_size: ClassVar[int] = 128

    @override
    def load(self, data: Path | None) -> Parts:
        return handwriting("mnist", data)

    @override
    def network(self) -> nn.Module:
        return nets.create("lenet5")

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [Adam(self.model.parameters(), lr=5e-3)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return one_cycle(optimizer, self.steps)


class Photographs(Classification):
    """Classification of photographs, cut and mirrored at random while training."""

    @override
    def load(self, data: Path | None) -> Parts:
        return photographs(data)

    @override
    def augmented(self, batch: Batch) -> Batch:
        images, labels = batch
        return datasets.crop_and_flip(images, VARIED, generator=self.generator), labels


class Backbone(nn.Module):
    """Standardised photographs, layers that give features, their mean over all places, and a linear layer."""

    def __init__(self, layers: nn.Sequential, features: int) -> None:
        super().__init__()
        self.standardize = Standardize(CIFAR10_MEAN, CIFAR10_STANDARD_DEVIATION)
        self.layers = layers
        self.linear = nn.Linear(features, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (N, 3, height, width)."""
        logits: Tensor = self.linear(self.layers(self.standardize(images)).mean(dim=(2, 3)))
        return logits


def normalized(convolution: nn.Conv2d) -> nn.Sequential:
    """A convolution, batch normalisation and ReLU."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


class ResNet(Photographs):
    """A residual network with batch normalisation, ResNet-8, by SGD with Nesterov's momentum and one cycle."""

    name: ClassVar[str] = "resnet"
    steps: ClassVar[int] = 1600
    batch_size: ClassVar[int] = 64

    @override
    def network(self) -> nn.Module:
        widths = [16, 16, 32, 64]
        blocks = [Block(*pair) for pair in pairwise(widths)]
        return Backbone(nn.Sequential(normalized(nn.Conv2d(3, 16, 3, padding=1, bias=False)), *blocks), widths[-1])

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [SGD(self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return one_cycle(optimizer, self.steps)


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A convolution of every channel by itself and one over single pixels (Howard et al. 2017, section 3.1)."""
    alone = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
    return nn.Sequential(normalized(alone), normalized(nn.Conv2d(inputs, outputs, 1, bias=False)))


class MobileNet(Photographs):
    """Depthwise separable convolutions with batch normalisation, by AdamW with a cosine."""

    name: ClassVar[str] = "mobilenet"
    steps: ClassVar[int] = 1200
    batch_size: ClassVar[int] = 64

    @override
    def network(self) -> nn.Module:
        plan = [(32, 64, 1), (64, 96, 2), (96, 96, 1), (96, 192, 2), (192, 192, 1)]
        blocks = [separable(*sizes) for sizes in plan]
        return Backbone(nn.Sequential(normalized(nn.Conv2d(3, 32, 3, padding=1, bias=False)), *blocks), 192)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [AdamW(self.model.parameters(), lr=4e-3, weight_decay=0.05)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps)


class VisionTransformer(nn.Module):
    """A transformer over square patches with learned positions (after Dosovitskiy et al. 2021)."""

    def __init__(self, *, patch: int, width: int, layers: int) -> None:
        super().__init__()
        self.standardize = Standardize(CIFAR10_MEAN, CIFAR10_STANDARD_DEVIATION)
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn((SIDE // patch) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (N, 3, 16, 16)."""
        patches = self.patches(self.standardize(images)).flatten(2).mT  # (N, patches, width)
        logits: Tensor = self.linear(self.norm(self.blocks(patches + self.positions)).mean(dim=1))
        return logits


class VisionTransformerLoop(Photographs):
    """A vision transformer, by AdamW with clipping and a cosine after a rise."""

    name: ClassVar[str] = "vit"
    steps: ClassVar[int] = 1500
    batch_size: ClassVar[int] = 64
    most_norm: ClassVar[float | None] = 1.0

    @override
    def network(self) -> nn.Module:
        return VisionTransformer(patch=4, width=64, layers=4)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [AdamW(self.model.parameters(), lr=2e-3, weight_decay=0.05)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps, warm_up=100)


@cache
def handwriting(name: str, data: Path | None) -> Parts:
    """Images (N, 1, 28, 28) in [0, 1] and their classes."""
    splits = datasets.load(name, data_dir=data)

    def prepared(part: datasets.ImageDataset) -> Batch:
        return datasets.channels_last(datasets.to_float(part.images)), part.labels

    return Parts(train=prepared(splits.train), validation=prepared(splits.validation), test=prepared(splits.test))


@cache
def photographs(data: Path | None) -> Parts:
    """Images (N, 3, 16, 16) in [0, 1] and their classes: means over 2×2 pixels of CIFAR-10's first ones."""
    splits = datasets.load("cifar10", data_dir=data)

    def reduced(part: datasets.ImageDataset, count: int) -> Batch:
        images = functional.avg_pool2d(datasets.to_float(part.images[:count]), 2)
        return datasets.channels_last(images), part.labels[:count]

    return Parts(
        train=reduced(splits.train, TRAIN_COUNT),
        validation=reduced(splits.validation, HELD_OUT_COUNT),
        test=reduced(splits.test, HELD_OUT_COUNT),
    )
