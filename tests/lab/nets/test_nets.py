"""The reference networks, factories of the user's own, initial weights and loading."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metaq.errors import ConfigError
from metaq.lab import nets
from metaq.lab.registry import NETWORKS
from metaq.lab.train.config import InitConfig

REFERENCE = os.environ.get("METAQ_REFERENCE")


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_networks_take_inputs_of_the_shape_that_is_told(name):
    assert nets.create(name)(torch.rand(2, *nets.input_shape(name))).shape == (2, 10)
    assert nets.input_shape("package.module:factory") is None


DIGITS, PHOTOGRAPHS = (1, 28, 28), (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "weights", "images"),
    [
        ("lenet5", 44_426, DIGITS),
        ("lenet5-caffe", 431_080, DIGITS),
        ("lenet300", 266_610, DIGITS),
        ("resnet20", 269_722, PHOTOGRAPHS),
        ("vgg11", 9_228_362, PHOTOGRAPHS),
    ],
)
def test_networks_have_the_published_size(name: str, weights: int, images: tuple[int, ...]) -> None:
    model = nets.create(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert model(torch.zeros(3, *images)).shape == (3, 10)
    assert name in NETWORKS


def test_default_initialisation_follows_the_global_seed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = nets.create("lenet5").state_dict()
        torch.manual_seed(5)
        second = nets.create("lenet5").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_lenet5_is_the_network_of_the_thesis() -> None:
    model = nets.create("lenet5")
    layers = dict(model.named_children())
    assert list(layers) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    plain = nn.Sequential(
        *(layers["conv1"], nn.Tanh(), nn.AvgPool2d(2), layers["conv2"], nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(layers["fc1"], nn.Tanh(), layers["fc2"], nn.Tanh(), layers["fc3"]),
    )
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), plain(images))


def random_norms(model: nn.Module) -> nn.Module:
    """The model in evaluation, its batch normalisation as after some training."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def photographs(count: int) -> Tensor:
    return torch.rand(count, *PHOTOGRAPHS, generator=torch.Generator().manual_seed(0))


def standardized(images: Tensor) -> Tensor:
    mean, deviation = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    return (images - mean[:, None, None]) / deviation[:, None, None]


@torch.no_grad()
def test_resnet20_is_the_network_of_the_paper() -> None:
    model = random_norms(nets.create("resnet20"))
    parts = dict(model.named_modules())

    def layer(features: Tensor, name: str, number: str = "") -> Tensor:
        return parts[f"{name}norm{number}"](parts[f"{name}conv{number}"](features))

    features = layer(standardized(photographs(2)), "").relu()
    for number, channels in enumerate((16, 16, 16, 32, 32, 32, 64, 64, 64)):
        shortcut = features
        if channels > features.shape[1]:
            # Option A: every other pixel, and channels of zeros on both sides.
            shortcut = torch.zeros(2, channels, features.shape[2] // 2, features.shape[3] // 2)
            shortcut[:, channels // 4 : 3 * channels // 4] = features[:, :, ::2, ::2]
        changed = layer(features, f"blocks.{number}.", "1").relu()
        features = (layer(changed, f"blocks.{number}.", "2") + shortcut).relu()
    assert features.shape == (2, 64, 8, 8)
    torch.testing.assert_close(model(photographs(2)), parts["linear"](features.mean(dim=(2, 3))))
    assert sum(isinstance(part, nn.Conv2d) for part in parts.values()) == 19


@torch.no_grad()
def test_vgg11_is_eight_convolutions_and_five_poolings() -> None:
    model = random_norms(nets.create("vgg11"))
    parts = dict(model.named_modules())
    features = standardized(photographs(2))
    for number in range(8):
        features = parts[f"blocks.{number}.norm"](parts[f"blocks.{number}.conv"](features)).relu()
        if number in (0, 1, 3, 5, 7):
            features = nn.functional.max_pool2d(features, 2)
    assert features.shape == (2, 512, 1, 1)
    torch.testing.assert_close(model(photographs(2)), parts["linear"](features.flatten(1)))


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_convolutions_before_batch_normalisation_have_no_bias_and_constants_are_not_saved(name: str) -> None:
    names = nets.create(name).state_dict().keys()
    assert not any("conv" in one and one.endswith("bias") for one in names)
    assert not any("standardize" in one for one in names)


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3072), (3, 32, 32)])
def test_networks_for_photographs_refuse_other_images(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="3 channels"):
        nets.create(name)(torch.zeros(shape))


def test_standardized_images_keep_their_dtype() -> None:
    model = nets.create("resnet20").double()
    assert model(photographs(2).double()).dtype == torch.float64


@pytest.mark.skipif(not REFERENCE, reason="METAQ_REFERENCE, a folder with the thesis's checkpoints, is not set")
def test_the_checkpoint_of_the_thesis_fits() -> None:
    path = Path(REFERENCE or "") / "lenet5_metaq_r1114_1.pth"
    weights = torch.load(path, weights_only=True, map_location="cpu")
    model = nets.create("lenet5")
    nets.load_weights(model, weights)
    assert torch.equal(model.state_dict()["fc3.weight"], weights["fc3.weight"])


@pytest.mark.parametrize(
    ("name", "words"),
    [("lenet6", "did you mean 'lenet5'"), ("alexnet", "package.module:factory"), ("", "choose one of")],
)
def test_an_unknown_name_is_answered_with_near_ones(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        nets.create(name)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, under a name that is free; it imports its neighbour only when called."""
    name = "metaq_test_own_networks"
    (tmp_path / f"{name}.py").write_text(
        "import torch\n"
        "number = 3\n"
        "def build():\n"
        f"    from {name}_sizes import OUTPUTS\n"
        "    return torch.nn.Linear(4, OUTPUTS)\n"
        "def nothing():\n"
        "    pass\n"
        "def needs(size):\n"
        "    return torch.nn.Linear(size, 2)\n"
    )
    (tmp_path / f"{name}_sizes.py").write_text("OUTPUTS = 2\n")
    (tmp_path / f"{name}_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def test_a_network_of_ones_own_is_built(own_module: str) -> None:
    before = list(sys.path)
    assert isinstance(nets.create(f"{own_module}:build"), nn.Linear)
    assert sys.path == before


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (":", "write it as"),
        (":a b", "write it as"),
        (":build:build", "write it as"),
        ("..x:build", "write it as"),
        ("_absent:build", "cannot be imported .*ModuleNotFoundError"),
        ("_broken:build", "cannot be imported .*ZeroDivisionError"),
        (":absent", "has no absent"),
        (":number", "of type int and cannot be called"),
        (":nothing", "returned NoneType"),
        (":needs", r"needs\(\) without arguments failed .*size"),
    ],
)
def test_what_is_no_factory_is_refused(own_module: str, suffix: str, words: str) -> None:
    before = list(sys.path)
    with pytest.raises(ConfigError, match=words):
        nets.create(own_module + suffix)
    assert sys.path == before


class Tied(nn.Module):
    """Two names for one weight, a whole-number parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 20)
        self.second = nn.Linear(20, 20)
        self.second.weight = self.first.weight
        self.levels = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("scale", torch.ones(3))


def test_uniform_weights_fill_the_interval() -> None:
    model = nets.create("lenet5")
    nets.initialize_uniform(model, center=-0.11, radius=1.114, generator=torch.Generator().manual_seed(0))
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert -1.224 <= float(weights.min()) < -1.22
    assert 1.0 < float(weights.max()) <= 1.004
    assert abs(float(weights.mean()) + 0.11) < 0.01


def test_uniform_weights_can_be_repeated_and_spare_what_is_no_weight() -> None:
    first, second = Tied(), Tied().to(torch.float64)
    for model in (first, second):
        nets.initialize_uniform(model, center=0.0, radius=2.0, generator=torch.Generator().manual_seed(1))
        assert model.second.weight is model.first.weight
        assert torch.equal(model.levels, torch.arange(3))
        assert torch.equal(model.scale, torch.ones(3, dtype=model.scale.dtype))  # type: ignore[arg-type, union-attr]
    third = Tied()
    nets.initialize_uniform(third, center=0.0, radius=2.0, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(first.state_dict()[name], third.state_dict()[name]) for name in first.state_dict())


@pytest.mark.parametrize(
    ("center", "radius", "words"), [(float("nan"), 1.0, "center"), (0.0, 0.0, "radius"), (0.0, float("inf"), "radius")]
)
def test_an_interval_that_is_none_is_refused(center: float, radius: float, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        InitConfig(center=center, radius=radius)


def altered(**changes: Tensor | None) -> dict[str, Tensor]:
    """Weights of a LeNet-5 of sevens with some tensors replaced, or left out where None is given."""
    state = {name: torch.full_like(value, 7.0) for name, value in nets.create("lenet5").state_dict().items()}
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


def test_weights_that_fit_are_loaded() -> None:
    model = nets.create("lenet5")
    nets.load_weights(model, altered())
    assert all(bool((parameter == 7).all()) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (altered(fc1__bias=None), r"LeNet5 \(missing: fc1.bias\); choose"),
        (altered(fc9__bias=torch.zeros(1)), r"unexpected: fc9.bias\)"),
        (altered(fc3__bias=torch.zeros(11)), r"of another shape: fc3.bias \(has \(11,\), needs \(10,\)\)"),
        (altered(fc3__bias=None, x=torch.zeros(1)), "missing: fc3.bias; unexpected: x"),
        ({}, r"missing: conv1.weight, conv1.bias, conv2.weight and 7 more"),
        ({**altered(), "fc3.bias": [0.0]}, "fc3.bias .is list, not a tensor"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(state: dict[str, Tensor], words: str) -> None:
    model = nets.create("lenet5")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=words):
        nets.load_weights(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
