"""Training loops that are neither plain regression or classification nor language."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from metaq.lab import data as datasets
from support.loops.base import (
    CALIBRATION_BATCHES,
    Batch,
    Classification,
    MinibatchLoop,
    Parts,
    constant_then_falling,
    cosine,
    seeded,
)
from support.loops.nets import fully_connected
from support.loops.pictures import handwriting, photographs
from support.loops.tables import small_digits

FIXED_SEED = 12345
"""Of all that is drawn for judging, whatever the seed of a loop."""


class Sine(nn.Module):
    """A linear layer and the sine of its outputs times a frequency (Sitzmann et al. 2020, section 3.2)."""

    FREQUENCY = 30.0

    def __init__(self, inputs: int, outputs: int, *, is_first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        most = 1 / inputs if is_first else (6 / inputs) ** 0.5 / self.FREQUENCY
        nn.init.uniform_(self.linear.weight, -most, most)

    def forward(self, values: Tensor) -> Tensor:
        """From (N, inputs) to (N, outputs)."""
        return torch.sin(self.FREQUENCY * self.linear(values))


class Siren(MinibatchLoop):
    """Sinusoidal layers that learn one picture: from a place in it to its colour, both in [-1, 1].

    The picture of 64×64 pixels is put together of four photographs of CIFAR-10. Nothing is held out: validation and
    test data are all pixels, which are the training data too.
    """

    name: ClassVar[str] = "siren"
    steps: ClassVar[int] = 2000
    batch_size: ClassVar[int] = 1024

    @override
    def load(self, data: Path | None) -> Parts:
        return one_picture(data)

    @override
    def network(self) -> nn.Module:
        return nn.Sequential(Sine(2, 72, is_first=True), Sine(72, 72), Sine(72, 72), nn.Linear(72, 3))

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [Adam(self.model.parameters(), lr=5e-4)]


@cache
def one_picture(data: Path | None) -> Parts:
    """Places (4096, 2) and colours (4096, 3) of four photographs, two by two."""
    tiles = datasets.to_float(datasets.load("cifar10", data_dir=data).test.images[:4])
    rows = [torch.cat([tiles[number], tiles[number + 1]], dim=2) for number in (0, 2)]
    colours = torch.cat(rows, dim=1).mul(2).sub(1).flatten(1).T.contiguous()
    axis = torch.linspace(-1, 1, 2 * tiles.shape[2])
    pixels = (torch.cartesian_prod(axis, axis), colours)
    return Parts(train=pixels, validation=pixels, test=pixels)


class Lion(Optimizer):
    """Steps of one size for all weights, by the signs of a moving mean of gradients (Chen et al. 2023, algorithm 2)."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                direction = state["mean"].lerp(parameter.grad, 1 - first).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                state["mean"].lerp_(parameter.grad, 1 - second)
        return loss


class Encoder(nn.Module):
    """Three convolutions with strides, and two linear layers."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU()),
        )
        self.head = nn.Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """From images (N, 1, 28, 28) to (N, outputs)."""
        found: Tensor = self.head(self.features(images))
        return found


class Embedding(nn.Module):
    """Outputs of an encoder at length 1."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """From images (N, 1, 28, 28) to (N, outputs)."""
        return functional.normalize(self.encoder(images), dim=1)


class Contrastive(MinibatchLoop):
    """Embeddings of MNIST's digits in which two distortions of one image are near (InfoNCE), by Lion with a cosine.

    No label is used for training. The figure is how often the nearest of 5,000 training images has the same one.
    """

    name: ClassVar[str] = "contrastive"
    figure: ClassVar[str] = "accuracy of the nearest neighbour, %"
    larger_is_better: ClassVar[bool] = True
    is_loss: ClassVar[bool] = False
    steps: ClassVar[int] = 600
    batch_size: ClassVar[int] = 128

    DISTORTION: ClassVar[datasets.Augmentation] = datasets.Augmentation(
        rotation_degrees=20, scale=0.2, shear=0.2, shift_pixels=3, elastic_pixels=1.5, clean_fraction=0
    )
    TEMPERATURE: ClassVar[float] = 0.2
    NEIGHBOURS: ClassVar[int] = 5000

    @override
    def load(self, data: Path | None) -> Parts:
        return handwriting("mnist", data)

    @override
    def network(self) -> nn.Module:
        return Embedding(32)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [Lion(self.model.parameters(), lr=3e-4, weight_decay=0.1)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps)

    @override
    def augmented(self, batch: Batch) -> Batch:
        images = batch[0]
        views = [datasets.augment(images, self.DISTORTION, generator=self.generator) for _ in range(2)]
        partners = torch.arange(2 * len(images)).roll(len(images))
        return torch.cat(views), partners

    @override
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        logits = outputs @ outputs.T / self.TEMPERATURE
        itself = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
        return functional.cross_entropy(logits.masked_fill(itself, -torch.inf), target)

    @override
    def score(self, outputs: Tensor, target: Tensor) -> float:
        images, labels = (tensor[: self.NEIGHBOURS] for tensor in self.parts.train)
        nearest = (outputs @ self.outputs(images).T).argmax(dim=1)
        return 100 * (labels[nearest] == target).double().mean().item()


class Gan(MinibatchLoop):
    """A generator of digits of 8×8 pixels against a discriminator, each by an Adam of its own.

    The model is the generator. The figure is the Fréchet distance between the pixels of generated and of real digits:
    that of two normal distributions with their means and covariances (Dowson and Landau 1982).
    Even real digits are 0.1 to 0.2 from so few others.
    """

    name: ClassVar[str] = "gan"
    figure: ClassVar[str] = "Fréchet distance of pixels"
    steps: ClassVar[int] = 5000
    batch_size: ClassVar[int] = 64

    LATENT: ClassVar[int] = 16
    GENERATED: ClassVar[int] = 2000

    def __init__(self, seed: int, data: Path | None = None) -> None:
        super().__init__(seed, data)
        with seeded(seed + 1):
            self.discriminator = fully_connected([64, 128, 128, 1], lambda: nn.LeakyReLU(0.2))
        self.other_optimizers = [Adam(self.discriminator.parameters(), lr=5e-4, betas=(0.5, 0.999))]
        self.schedulers += [self.schedule(optimizer) for optimizer in self.other_optimizers]

    @override
    def load(self, data: Path | None) -> Parts:
        return small_digits()

    @override
    def network(self) -> nn.Module:
        hidden = [nn.Sequential(nn.Linear(size, 128), nn.BatchNorm1d(128), nn.ReLU()) for size in (self.LATENT, 128)]
        return nn.Sequential(*hidden, nn.Linear(128, 64), nn.Sigmoid())

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [Adam(self.model.parameters(), lr=1e-3, betas=(0.5, 0.999))]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return constant_then_falling(optimizer, self.steps)

    @override
    def step(self, number: int) -> float:
        real, _ = self.minibatch(number)
        fake = self.model(torch.randn(len(real), self.LATENT, generator=self.generator))
        (other,) = self.other_optimizers
        other.zero_grad()
        truth = functional.softplus(-self.discriminator(real)) + functional.softplus(self.discriminator(fake.detach()))
        torch.autograd.backward(truth.mean())
        other.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = functional.softplus(-self.discriminator(fake)).mean()
        torch.autograd.backward(loss)
        self.advance()
        return loss.item()

    @override
    def judged(self, part: Batch) -> float:
        return frechet_distance(self.outputs(self._latents(self.GENERATED)), part[0])

    @override
    def batches(self) -> list[Batch]:
        return [(latents,) for latents in torch.split(self._latents(CALIBRATION_BATCHES * 64), 64)]

    def _latents(self, count: int) -> Tensor:
        return torch.randn(count, self.LATENT, generator=torch.Generator().manual_seed(FIXED_SEED))


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared distance of two normal distributions that have the means and covariances of two sets of rows."""
    one, other = first.double(), second.double()
    root = square_root(one.T.cov())
    between = torch.linalg.eigvalsh(root @ other.T.cov() @ root).clamp(min=0).sqrt().sum()
    spread = one.T.cov().trace() + other.T.cov().trace() - 2 * between
    return float((one.mean(dim=0) - other.mean(dim=0)).square().sum() + spread)


def square_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


class PixelBlock(nn.Module):
    """A convolution of every channel by itself, and two linear layers for every pixel (after Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Of and to the shape (N, width, height, width)."""
        pixels = self.norm(self.around(features).movedim(1, 3))
        changed: Tensor = self.outer(functional.gelu(self.inner(pixels)))
        return features + changed.movedim(3, 1)


class SmallUNet(nn.Module):
    """Features at full and at half resolution, joined again; what is learned is the noise to be taken away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.begin, self.end = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.fine1, self.fine2 = PixelBlock(width), PixelBlock(width)
        self.coarse = nn.Sequential(PixelBlock(2 * width), PixelBlock(2 * width))
        self.down, self.up = nn.Linear(4 * width, 2 * width), nn.Linear(2 * width, 4 * width)

    def forward(self, images: Tensor) -> Tensor:
        """From noisy images (N, 3, height, width) to clean ones; height and width are even."""
        fine = self.fine1(self.begin(images))
        folded = functional.pixel_unshuffle(fine, 2).movedim(1, 3)
        coarse = self.coarse(self.down(folded).movedim(3, 1))
        unfolded = functional.pixel_shuffle(self.up(coarse.movedim(1, 3)).movedim(3, 1), 2)
        noise: Tensor = self.end(self.fine2(fine + unfolded))
        return images - noise


class Denoiser(MinibatchLoop):
    """A U-Net that takes noise of standard deviation 0.15 from photographs in [0, 1].

    Matrices are updated by Muon, or by SGD with momentum where PyTorch has no Muon; all else is by AdamW. Both have a
    cosine.
    """

    name: ClassVar[str] = "denoiser"
    steps: ClassVar[int] = 500
    batch_size: ClassVar[int] = 32

    NOISE: ClassVar[float] = 0.15

    @override
    def load(self, data: Path | None) -> Parts:
        known, generator = photographs(data), torch.Generator().manual_seed(FIXED_SEED)
        held_out = [self._noisy(part[0][:1000], generator) for part in (known.validation, known.test)]
        return Parts(train=(known.train[0], known.train[0]), validation=held_out[0], test=held_out[1])

    @override
    def network(self) -> nn.Module:
        return SmallUNet(32)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        everything = list(self.model.parameters())
        matrices = [parameter for parameter in everything if parameter.ndim == 2]
        others = [parameter for parameter in everything if parameter.ndim != 2]
        return [muon(matrices, lr=3e-3), AdamW(others, lr=3e-3, weight_decay=1e-2)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps, warm_up=20)

    @override
    def augmented(self, batch: Batch) -> Batch:
        return self._noisy(batch[0], self.generator)

    @override
    def batches(self) -> list[Batch]:
        generator = torch.Generator().manual_seed(FIXED_SEED)
        return [self._noisy(images, generator)[:1] for (images,) in super().batches()]

    def _noisy(self, images: Tensor, generator: torch.Generator) -> Batch:
        return images + self.NOISE * torch.randn(images.shape, generator=generator), images


def muon(matrices: list[nn.Parameter], lr: float) -> Optimizer:
    """Muon with the step sizes of AdamW, or SGD with momentum."""
    if hasattr(torch.optim, "Muon"):
        return torch.optim.Muon(matrices, lr=lr, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")
    return SGD(matrices, lr=10 * lr, momentum=0.95, nesterov=True, weight_decay=1e-4)


class Finetune(Classification):
    """A classifier of MNIST's digits 5 to 9 that begins from one of 0 to 4, by AdamW with a small learning rate.

    The first training comes with making the loop. It has five times the steps and ten times the learning rate; the last
    layer is replaced after it.
    """

    name: ClassVar[str] = "finetune"
    steps: ClassVar[int] = 300
    batch_size: ClassVar[int] = 128

    RATE: ClassVar[float] = 5e-4

    def __init__(self, seed: int, data: Path | None = None) -> None:
        self._state = pretrained(seed, data)
        super().__init__(seed, data)

    @override
    def load(self, data: Path | None) -> Parts:
        return five_digits(data, 5)

    @override
    def network(self) -> nn.Module:
        encoder = Encoder(5)
        encoder.features.load_state_dict(self._state)
        return encoder

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [AdamW(self.model.parameters(), lr=self.RATE, weight_decay=1e-2)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps, warm_up=30)


class Pretraining(Classification):
    """What the fine-tuned classifier begins from."""

    name: ClassVar[str] = "pretraining"
    steps: ClassVar[int] = 1500
    batch_size: ClassVar[int] = 64

    @override
    def load(self, data: Path | None) -> Parts:
        return five_digits(data, 0)

    @override
    def network(self) -> nn.Module:
        return Encoder(5)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [AdamW(self.model.parameters(), lr=10 * Finetune.RATE, weight_decay=1e-2)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps)


@cache
def pretrained(seed: int, data: Path | None) -> dict[str, Tensor]:
    """Weights of an encoder, without its last layer, that knows the digits 0 to 4."""
    first = Pretraining(seed, data)
    for number in range(first.steps):
        first.step(number)
    return first.model.get_submodule("features").state_dict()


def five_digits(data: Path | None, lowest: int) -> Parts:
    """MNIST's images of five digits, which are classes 0 to 4."""
    known = handwriting("mnist", data)

    def chosen(part: Batch) -> Batch:
        images, labels = part
        belongs = (labels >= lowest) & (labels < lowest + 5)
        return datasets.channels_last(images[belongs]), labels[belongs] - lowest

    return Parts(train=chosen(known.train), validation=chosen(known.validation), test=chosen(known.test))
