"""Federated averaging in a loop of one's own, with models and changes that travel as updates.

Eight clients hold handwritten digits; how many of each digit a client holds is drawn from a Dirichlet distribution of
0.5. In every round each client trains what it has of the model for an epoch and sends how that has changed; the server
takes the mean, and sends every client how its model has changed. Each of these messages is a file of ``metaq.diff`` for
the model that both ends have already. So that few bytes are enough, a round is about every eighth row of the large
matrices, and the next round about the next ones. What a file leaves out of all other tensors its sender adds to what it
sends next.

``python examples/federated.py`` takes MNIST from the folder that METAQ_DATA names, or downloads it. It prints after
every round the bytes up and down, those of all clients, and the accuracy of the model that clients have then; the last
line is all of it as JSON. ``--way float32`` sends all weights as they are, ``--way int8`` changes in 255 steps per
tensor, by zstd; both train all rows in every round. ``--quick`` takes two clients and scikit-learn's digits, of which
there are 1,197.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import zstandard
from torch import Tensor, nn
from torch.nn import functional

import metaq
from metaq.lab import nets
from metaq.lab.data import ImageDataset, load

NET = "lenet5"
CLIENTS = 8
CONCENTRATION = 0.5
BATCH_SIZE = 64
LEARNING_RATE, MOMENTUM = 0.2, 0.9
BITS_PER_WEIGHT = 0.3
PARTS, LARGE = 8, 1 << 13

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a model travels: `pack` makes bytes of it, given what the receiver has, and `unpack` gives it back."""

    pack: Callable[[Weights, Weights], bytes]
    unpack: Callable[[Weights, bytes], Weights]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What was sent in a round by and to all clients, and the percentage of images that these then recognise."""

    bytes_up: int
    bytes_down: int
    accuracy: float


def by_metaq(limit: int) -> Way:
    """Updates of at most `limit` bytes."""
    return Way(
        pack=lambda base, new: metaq.diff(base, new, target_bytes=limit).data,
        unpack=lambda base, data: metaq.load(data, base=base),
    )


def limit_of(bits_per_weight: float) -> int:
    """Bytes of an update that has that many bits for every weight of the network, whether it is about all or not."""
    return int(bits_per_weight * sum(tensor.numel() for tensor in nets.create(NET).parameters()) / 8)


def by_float32() -> Way:
    """All weights, four bytes each."""
    return Way(
        pack=lambda base, new: flat(new).numpy().tobytes(),  # noqa: ARG005
        unpack=lambda base, data: shaped(torch.from_numpy(np.frombuffer(data, np.float32).copy()), base),
    )


def by_int8() -> Way:
    """Changes as 8-bit integers with a step per tensor, compressed by zstd."""

    def pack(base: Weights, new: Weights) -> bytes:
        changes = [new[name] - base[name] for name in base]
        steps = [max(float(change.abs().max()) / 127, 1e-30) for change in changes]
        levels = [(change / step).round().to(torch.int8) for change, step in zip(changes, steps, strict=True)]
        told = np.array(steps, np.float32).tobytes() + b"".join(level.numpy().tobytes() for level in levels)
        return zstandard.ZstdCompressor(level=19).compress(told)

    def unpack(base: Weights, data: bytes) -> Weights:
        told = zstandard.ZstdDecompressor().decompress(data)
        steps = np.frombuffer(told, np.float32, len(base))
        levels = shaped(torch.from_numpy(np.frombuffer(told, np.int8, offset=steps.nbytes).astype(np.float32)), base)
        return {name: base[name] + levels[name] * float(step) for name, step in zip(base, steps, strict=True)}

    return Way(pack=pack, unpack=unpack)


def flat(weights: Weights) -> Tensor:
    """All weights one after the other."""
    return torch.cat([tensor.flatten() for tensor in weights.values()])


def shaped(values: Tensor, like: Weights) -> Weights:
    """Invert :func:`flat`."""
    parts = torch.split(values, [tensor.numel() for tensor in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}


def part_of(weights: Weights, number: int, parts: int) -> Weights:
    """Views of what round `number` is about: of a large tensor every `parts`-th row, of others all rows."""
    return {
        name: tensor[number % parts :: parts] if tensor.numel() >= LARGE else tensor for name, tensor in weights.items()
    }


class Sender:
    """One end of a line, which remembers what the other end has not been told yet."""

    def __init__(self, way: Way, parts: int) -> None:
        self._way, self._parts = way, parts
        self._left_out: Weights = {}

    def send(self, base: Weights, new: Weights, number: int) -> tuple[int, Weights]:
        """Bytes of a message of round `number` to one who has `base`, and what that one makes of it."""
        self._left_out = self._left_out or {name: torch.zeros_like(tensor) for name, tensor in new.items()}
        old, left_out = (part_of(each, number, self._parts) for each in (base, self._left_out))
        wanted = {name: values + left_out[name] for name, values in part_of(new, number, self._parts).items()}
        data = self._way.pack(old, wanted)
        told = self._way.unpack(old, data)
        result = {name: tensor.clone() for name, tensor in base.items()}
        for name, view in part_of(result, number, self._parts).items():
            view.copy_(told[name])
            # Rows of large tensors come again so much later that what was left out of them would do harm.
            if base[name].numel() < LARGE:
                left_out[name].copy_(wanted[name] - told[name])
        return len(data), result


def shared_out(images: ImageDataset, clients: int, generator: np.random.Generator) -> list[ImageDataset]:
    """The images of each client."""
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in range(images.classes):
        places = torch.nonzero(images.labels == label).flatten()
        places = places[torch.from_numpy(generator.permutation(len(places)))]
        shares = generator.dirichlet([CONCENTRATION] * clients)
        ends = np.floor(np.cumsum(shares)[:-1] * len(places)).astype(int).tolist()
        for part, some in zip(parts, places.tensor_split(ends), strict=True):
            part.append(some)
    return [images.take(torch.cat(part)) for part in parts]


def pixels(images: Tensor) -> Tensor:
    """What networks take: float32 from 0 to 1."""
    return images.float() / 255


def trained(
    net: nn.Module,
    weights: Weights,
    is_free: Weights,
    images: ImageDataset,
    *,
    rate: float,
    generator: torch.Generator,
) -> Weights:
    """The weights after an epoch over the `images` of a client; `is_free` is 0 where they stay as they are, else 1."""
    net.load_state_dict(weights)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)
    for batch in torch.split(torch.randperm(len(images), generator=generator), BATCH_SIZE):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(pixels(images.images[batch])), images.labels[batch]))
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            parameter.grad *= is_free[name]
        optimizer.step()
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@torch.no_grad()
def accuracy(net: nn.Module, weights: Weights, images: ImageDataset) -> float:
    """Percentage of `images` that are recognised."""
    net.load_state_dict(weights)
    found = torch.cat([net(pixels(some)).argmax(dim=1) for some in torch.split(images.images, 1000)])
    return 100 * float((found == images.labels).double().mean())


def rounds_of(
    way: Way, train: ImageDataset, unseen: ImageDataset, *, rounds: int, parts: int, seed: int, clients: int = CLIENTS
) -> Iterator[Round]:
    """Train a network together; its first weights come from the `seed`, which all know.

    The learning rate falls to zero by half a cosine. Every way has the same images in the same order.
    """
    torch.manual_seed(seed)
    net = nets.create(NET)
    generator = torch.Generator().manual_seed(seed)
    shares = shared_out(train, clients, np.random.default_rng(seed))
    server, senders = Sender(way, parts), [Sender(way, parts) for _ in shares]
    model = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for number in range(rounds):
        rate = LEARNING_RATE * (1 + math.cos(math.pi * number / rounds)) / 2
        is_free = {name: torch.zeros_like(tensor) for name, tensor in model.items()}
        for view in part_of(is_free, number, parts).values():
            view.fill_(1)
        bytes_up, mean = 0, {name: torch.zeros_like(tensor) for name, tensor in model.items()}
        for client, images in zip(senders, shares, strict=True):
            new = trained(net, model, is_free, images, rate=rate, generator=generator)
            size, told = client.send(model, new, number)
            bytes_up += size
            mean = {name: mean[name] + len(images) / len(train) * told[name] for name in mean}
        size, model = server.send(model, mean, number)
        yield Round(bytes_up=bytes_up, bytes_down=clients * size, accuracy=accuracy(net, model, unseen))


def main() -> None:
    """Train, tell every round and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=("metaq", "float32", "int8"), default="metaq")
    parser.add_argument("--bits-per-weight", type=float, default=BITS_PER_WEIGHT, help="of metaq's updates, at most")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two clients with digits that need no download")
    options = parser.parse_args()
    ways = {"metaq": by_metaq(limit_of(options.bits_per_weight)), "float32": by_float32(), "int8": by_int8()}
    splits, clients = load("digits" if options.quick else "mnist"), 2 if options.quick else CLIENTS
    done: list[Round] = []
    for each in rounds_of(
        ways[options.way],
        splits.train,
        splits.test,
        rounds=options.rounds,
        parts=PARTS if options.way == "metaq" else 1,
        seed=options.seed,
        clients=clients,
    ):
        done.append(each)
        sizes = f"{each.bytes_up:,} bytes up, {each.bytes_down:,} down"
        print(f"round {len(done)}: {sizes}, {each.accuracy:.2f} %", flush=True)
    floats = options.rounds * clients * limit_of(32)
    up, down = (sum(getattr(each, name) for each in done) for name in ("bytes_up", "bytes_down"))
    ratios = f"{floats / up:.1f} times fewer than as float32 up, {floats / down:.1f} down"
    print(f"{up:,} bytes up, {down:,} down: {ratios}, {2 * floats / (up + down):.1f} in all")
    print(json.dumps({"way": options.way, "float32_bytes": 2 * floats, "rounds": [asdict(each) for each in done]}))


if __name__ == "__main__":
    main()
