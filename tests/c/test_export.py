"""Networks as C: what the compiled program gives against PyTorch on the weights of the file."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from metaq import container, firmware
from metaq.cli import main
from metaq.compression import pipeline
from metaq.errors import ConfigError, OutputError
from metaq.firmware.block import MACHINES
from metaq.firmware.reading import Interval, offsets_of
from metaq.lab import nets, runs
from metaq.model import checkpoint
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, QuantizedTensor
from metaq.tensors.scales import Scales

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
ARM_COMPILER = shutil.which("arm-none-eabi-gcc")
OPTIONS = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CLOSE = 1e-4
OBJECTS: list[Path] = []

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler is installed")

DRIVER = """
#include <stdio.h>
#include "network.h"
static float input[NETWORK_INPUTS], output[NETWORK_OUTPUTS];
int main(void) {
    while (fread(input, sizeof input, 1, stdin)) {
        const metaq_status status = network_run(input, output);
        if (status) return fprintf(stderr, "%s", metaq_sentence(status)), 10 + (int)status;
        fwrite(output, sizeof output, 1, stdout);
    }
    return fprintf(stderr, "%zu", network_reader()->slots_used), 0;
}
"""
"""Floats in, floats out, and the slots that were in use."""


def export_c(source, folder, *options):
    """Exit status, standard output and errors of the command."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["metaq", "export", str(source), "-o", str(folder), "--c", *options]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = before
    return status, out.getvalue(), err.getvalue()


def exported(source, folder):
    """What the command tells of a folder that it has written."""
    status, out, err = export_c(source, folder, "--json")
    assert status == 0, err
    return json.loads(out)


def macros(folder):
    return re.search(r"DECODER = (.*)", (folder / "Makefile").read_text()).group(1).split()


@pytest.fixture(autouse=True, scope="module")
def objects(tmp_path_factory):
    """Where decoders are kept that were compiled before."""
    OBJECTS.append(tmp_path_factory.mktemp("objects"))
    yield
    OBJECTS.pop()


@functools.cache
def sanitizers(folder):
    """Options that the compiler may lack."""
    (folder / "empty.c").write_text("int main(void) { return 0; }")
    command = [str(COMPILER), *SANITIZERS, str(folder / "empty.c"), "-o", str(folder / "empty")]
    return SANITIZERS if subprocess.run(command, capture_output=True, check=False).returncode == 0 else []


def compile_c(*arguments):
    command = [str(COMPILER), *OPTIONS, *sanitizers(OBJECTS[0]), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def compiled(folder, main):
    """A program of the files of a folder and a main function, without warnings."""
    decoder = OBJECTS[0] / f"{'_'.join(macros(folder))}.o"
    if not decoder.exists():
        compile_c(*macros(folder), "-c", folder / "metaq.c", "-o", decoder)
    program = folder.parent / f"{folder.name}.program"
    sources = [folder / name for name in ("network.c", "layers.c", "model.c")]
    compile_c(*macros(folder), f"-I{folder}", main, *sources, decoder, "-lm", "-o", program)
    return program


def run_floats(folder, inputs):
    """Outputs of the program for float inputs of shape (N, …), and the slots of the decoder in use."""
    main = folder.parent / "driver.c"
    main.write_text(DRIVER)
    done = subprocess.run([compiled(folder, main)], input=inputs.numpy().tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, dtype=np.float32).reshape(len(inputs), -1), int(done.stderr)


def quantized(model, *, count=15, smallest=6):
    """The model in evaluation on weights on grids, and its tensors."""
    grids = {
        name: BucketGrid(center=0.0, radius=float(weight.detach().abs().max()) or 1.0, count=count)
        for name, weight in model.named_parameters()
        if weight.numel() >= smallest
    }
    tensors = pipeline.to_tensors(model, grids=grids)
    model.load_state_dict(checkpoint.restore(tensors))
    return model.eval(), tensors


def compare(folder, model, tensors, shape, *, coder="small", number=2):
    """Export a model whose weights are those of `tensors`, and compare outputs; what was written."""
    data = container.encode(tensors, coder=coder)
    made = firmware.export(folder, model, shape, data)
    inputs = torch.randn(number, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.cat([model(each[None]).reshape(1, -1) for each in inputs]).numpy()
    found, slots = run_floats(folder, inputs)
    assert abs(found - expected).max() <= CLOSE * abs(expected).max()
    assert slots <= made.slots
    return made


class Everything(nn.Module):
    """Every layer that C is written for, and a sum of two."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 12, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=3)
        self.deep = nn.Conv2d(12, 12, 3, padding="same", dilation=2, groups=12)
        self.deep_norm = nn.BatchNorm2d(12, affine=False)
        self.pool = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
        self.drop, self.nothing, self.six = nn.Dropout(), nn.Identity(), nn.ReLU6()
        self.hidden, self.hidden_norm = nn.Linear(12, 20), nn.BatchNorm1d(20)
        self.last = nn.Linear(20, 5)

    def forward(self, images):
        start = functional.relu(self.norm(self.first(images)), inplace=True)
        found = functional.max_pool2d(start, 3, 2, padding=1)
        found = torch.tanh(self.grouped(found))
        found = self.deep_norm(self.deep(found)) + found
        found = self.six(self.pool(found)).clamp(max=0.9)
        found = functional.avg_pool2d(found, 2, 2, padding=1, ceil_mode=True)
        found = self.drop(functional.adaptive_avg_pool2d(found, 1).flatten(1))
        found = torch.sigmoid(self.hidden_norm(self.nothing(self.hidden(found))))
        return torch.softmax(self.last(found), dim=-1)


def everything(*, is_quantized=True):
    torch.manual_seed(0)
    model = Everything()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.1)
                nn.init.normal_(module.bias, std=0.1)
    return quantized(model) if is_quantized else (model.eval(), pipeline.to_tensors(model, grids={}))


def test_every_layer_gives_what_pytorch_gives(tmp_path):
    compare(tmp_path / "c", *everything(), (4, 15, 14))


def test_tensors_by_columns(tmp_path):
    model, tensors = everything()
    turned = [replace(each, scan="columns") if isinstance(each, QuantizedTensor) else each for each in tensors]
    compare(tmp_path / "c", model, turned, (4, 15, 14))


def test_tensors_that_are_kept_exactly(tmp_path):
    made = compare(tmp_path / "c", *everything(is_quantized=False), (4, 15, 14))
    assert "METAQ_NO_PLANES" not in made.left_out


def test_small_tensors_that_are_packed_lie_beside_the_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 800), nn.Linear(800, 3))
    model[0].bias.data = (torch.arange(800) % 7) * torch.randn(800)[0]
    grid = BucketGrid(center=0.0, radius=0.5, count=15)
    tensors = pipeline.to_tensors(model, grids={"0.weight": grid, "1.weight": grid})
    model.load_state_dict(checkpoint.restore(tensors))
    assert any(chunk.coder in ("zstd", "planes") for chunk in container.decode(container.encode(tensors)).chunks)
    compare(tmp_path / "c", model.eval(), tensors, (6,))
    assert "0.bias, which is packed by Zstandard" in (tmp_path / "c" / "network.c").read_text()
    exact = container.encode(pipeline.to_tensors(model, grids={}))
    with pytest.raises(ConfigError, match=r"weight: is packed by Zstandard, which the decoder in C lacks; quantise it"):
        firmware.export(tmp_path / "exact", model, (6,), exact)


def test_the_coder_fast_is_coded_anew(tmp_path):
    model, tensors = everything()
    assert compare(tmp_path / "c", model, tensors, (4, 15, 14), coder="fast").is_coded_anew
    assert not compare(tmp_path / "small", model, tensors, (4, 15, 14)).is_coded_anew


def test_a_trellis_scales_and_a_basis(tmp_path):
    rng = np.random.default_rng(0)
    grid = BucketGrid(center=0.0, radius=0.5, count=15)
    basis = Basis(indices=rng.integers(0, 15, (8, 8)), grid=grid)
    exponents = rng.integers(-4, 4, 20).astype(np.int8)
    common = {"grid": grid, "dtype": Dtype.float32}
    tensors = [
        QuantizedTensor(name="0.weight", indices=rng.integers(0, 15, (12, 8)), trellis_bits=3, **common),
        QuantizedTensor(
            name="2.weight",
            indices=rng.integers(0, 15, (8, 12)),
            scales=Scales(rows=exponents[:8], columns=exponents[8:]),
            **common,
        ),
        QuantizedTensor(name="4.weight", indices=rng.integers(0, 15, (6, 8)), basis=basis, **common),
    ]
    layers = [nn.Linear(8, 12, bias=False), nn.Tanh(), nn.Linear(12, 8, bias=False), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(8, 6, bias=False))
    model.load_state_dict(checkpoint.restore(tensors))
    made = compare(tmp_path / "c", model.eval(), tensors, (8,))
    assert not {"METAQ_NO_TRELLIS", "METAQ_NO_BASIS"} & set(made.left_out)


class Changed(nn.Module):
    """Constants, zeros, slices, and a shortcut without weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 0.25])[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor([0.5, 1.5, 2.0])[:, None, None], persistent=False)
        self.register_buffer("factors", torch.arange(8) / 4, persistent=False)
        self.layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, images):
        images = 2 * (images - self.mean) / self.deviation + 0.5
        shortcut = functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3))
        found = functional.pad(self.layer(images) + shortcut, (1, 0, 2, 1))[:, :, 1:-1, -6:]
        return self.last(torch.tanh(found * 0.3).mean((2, 3)) * self.factors)


def test_constants_zeros_and_slices(tmp_path):
    torch.manual_seed(0)
    compare(tmp_path / "c", *quantized(Changed()), (3, 12, 13))


class Beyond(nn.Module):
    """Slices from before the beginning, limits in the wrong order, and an infinite constant."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.register_buffer("odd", torch.tensor([1.0, torch.inf, 1.0, 2.0])[:, None, None], persistent=False)

    def forward(self, images):
        found = self.layer(images)[:, :, -30:-1, -40:-2]
        return torch.clamp(found, 0.5, 0.25) + found + torch.clamp(found * self.odd, -1, 1)


def test_what_pytorch_does_at_limits(tmp_path):
    torch.manual_seed(0)
    compare(tmp_path / "c", *quantized(Beyond()), (3, 8, 9))


@pytest.mark.slow
def test_the_residual_network_of_photographs(tmp_path):
    torch.manual_seed(0)
    made = compare(tmp_path / "c", *quantized(nets.create("resnet20"), smallest=100), (3, 32, 32), number=1)
    assert made.back == ("blocks.0.conv1.weight",)


def test_sequences(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv1d(3, 8, 4, stride=2, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(3, 2)]
    model = nn.Sequential(*layers, nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    compare(tmp_path / "c", *quantized(model), (3, 40))


def test_layers_that_are_stored_in_another_order(tmp_path):
    torch.manual_seed(0)
    layers = [layer for _ in range(7) for layer in (nn.Linear(9, 9), nn.ReLU())]
    made = compare(tmp_path / "c", *quantized(nn.Sequential(*layers, nn.Linear(9, 4))), (9,))
    assert (made.passes, made.back) == (2, ("10.weight",))
    assert "up to 2 times: it goes back to 10.weight" in (tmp_path / "c" / "network.c").read_text()


class Named(nn.Module):
    """A layer that the run has to go back to, whose name would end a comment."""

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(9, 9)
        self.add_module("a*/ #error", nn.Linear(9, 9))

    def forward(self, inputs):
        return self.get_submodule("a*/ #error")(torch.relu(self.b(inputs)))


def test_names_stay_inside_of_comments(tmp_path):
    torch.manual_seed(0)
    assert compare(tmp_path / "c", *quantized(Named()), (9,)).back == ("a*/ #error.weight",)


def test_a_layer_that_is_used_twice(tmp_path):
    torch.manual_seed(0)
    shared = nn.Linear(9, 9)
    made = compare(tmp_path / "c", *quantized(nn.Sequential(shared, nn.Tanh(), shared)), (9,))
    assert made.passes == 2


@pytest.mark.parametrize(("file", "net"), [("lenet5-mnist", "lenet5"), ("lenet300-mnist", "lenet300")])
def test_files_of_models_give_what_pytorch_gives(tmp_path, file, net):
    path = ROOT / "models" / f"{file}.metaq"
    told = exported(path, tmp_path / "c")
    assert told["passes"] == 1
    assert told["model_bytes"] == path.stat().st_size
    model = runs.build(net, checkpoint.read(path)).eval()
    inputs = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(inputs).numpy()
    found, slots = run_floats(tmp_path / "c", inputs)
    assert abs(found - expected).max() <= CLOSE * abs(expected).max()
    assert slots == told["slots"]


def test_folded_networks_give_the_same(tmp_path):
    path = ROOT / "models" / "lenet5-caffe-mnist.metaq"
    status, out, err = export_c(path, tmp_path / "c", "--fold", "--json")
    assert status == 0, err
    told = json.loads(out)
    assert told["units"]["fc1"] == [500, 89]
    assert told["model_bytes"] < path.stat().st_size
    inputs = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = runs.build("lenet5-caffe", checkpoint.read(path)).eval()(inputs).numpy()
    found, _ = run_floats(tmp_path / "c", inputs)
    assert abs(found - expected).max() <= CLOSE * abs(expected).max()


def test_the_program_reads_pictures_and_prints_classes(tmp_path):
    path = ROOT / "models" / "lenet300-mnist.metaq"
    exported(path, tmp_path / "c")
    images = torch.randint(0, 256, (1, 28 * 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    program = compiled(tmp_path / "c", tmp_path / "c" / "main.c")
    done = subprocess.run([program], input=images.numpy().tobytes() + b"12", capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    with torch.no_grad():
        expected = runs.build("lenet300", checkpoint.read(path)).eval()(images.reshape(1, 1, 28, 28) / 255)
    shown = lines[0].split()
    assert int(shown[0]) == int(expected.argmax())
    assert np.allclose([float(each) for each in shown[1:]], expected[0], atol=2e-5)
    assert lines[1:] == ["The last input is cut short."]


def test_the_block_is_enough_and_little_more(tmp_path):
    told = exported(ROOT / "models" / "lenet300-mnist.metaq", tmp_path / "c")
    header = tmp_path / "c" / "network.h"
    text = header.read_text()
    spare = 8 * (told["slots"] // 8 + 2)
    sizes = [int(size) for size in re.search(r"\? (\d+) : (\d+)\)", text).groups()]
    header.write_text(text.replace(f"{sizes[0]} : {sizes[1]}", f"{sizes[0] - spare - 600} : {sizes[1] - spare - 600}"))
    program = compiled(tmp_path / "c", tmp_path / "c" / "main.c")
    done = subprocess.run([program], input=bytes(28 * 28), capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout.decode() == "The block of memory is too small; give a larger one.\n"


def sizes_program(is_plain):
    left_out = ["METAQ_NO_FAST", "METAQ_NO_PLANES"] if is_plain else []
    names = {
        "tensor": "metaq_tensor",
        "basis": "metaq_basis",
        "chunk": "metaq_chunk",
        "plain_decoder" if is_plain else "decoder": "metaq_decoder",
        "small": "small_decoder",
        **({} if is_plain else {"block": "block"}),
    }
    lines = [f"#define {name}" for name in ["METAQ_SMALL_MEMORY", *left_out]] + ['#include "metaq.c"']
    for machine in MACHINES:
        for field, name in names.items():
            condition = f"sizeof(void *) != {machine.word} || sizeof({name}) == {getattr(machine, field)}"
            lines.append(f"typedef char size_of_{field}_{machine.word}[{condition} ? 1 : -1];")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("compiler", [COMPILER, ARM_COMPILER])
def test_the_sizes_of_structures_are_those_of_the_decoder(tmp_path, compiler, is_plain):
    if compiler is None:
        pytest.skip("no such compiler is installed")
    (tmp_path / "sizes.c").write_text(sizes_program(is_plain))
    command = [
        compiler,
        "-std=c99",
        f"-I{ROOT / 'c'}",
        "-c",
        str(tmp_path / "sizes.c"),
        "-o",
        str(tmp_path / "sizes.o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Reversed(nn.Module):
    def forward(self, inputs):
        return inputs.flip(1)


class Rounded(nn.Module):
    def forward(self, inputs):
        return torch.div(inputs, 0.25, rounding_mode="floor")


class Mean(nn.Module):
    def forward(self, inputs):
        return inputs.mean()


class Wide(nn.Module):
    def forward(self, inputs):
        return inputs.double()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs):
        return functional.linear(inputs, 2 * self.layer.weight)


REFUSED = [
    (nn.Sequential(nn.Linear(4, 4), nn.GELU()), r"1 \(GELU\): gelu is nothing that C is written for; there are conv"),
    (nn.Sequential(nn.Linear(4, 4), Reversed()), r"1 \(Reversed\): flip is nothing that C is written for"),
    (nn.Sequential(nn.Linear(4, 4), Rounded()), r"1 \(Rounded\): div is nothing that C is written for"),
    (nn.Sequential(nn.Linear(4, 4), Mean()), r"1: takes means over dimensions \[0, 1\]"),
    (nn.Sequential(OrderedDict({'t"\n#error': nn.Linear(4, 4)})), "take quotes and line breaks out of the names"),
    (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 2)), "1: a linear layer reads 2 places at once"),
    (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), "cannot be traced|by the batch"),
    (nn.Sequential(nn.Linear(4, 4), Wide()), "1: computes in float64; C is written for float32"),
    (
        nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Flatten(0, 1), nn.BatchNorm1d(1)),
        r"2: normalises a tensor of shape \(4, 1",
    ),
    (Scaled(), "mul: mul changes a parameter or a constant; C takes them as they are in the file"),
]


@pytest.mark.parametrize(("model", "sentence"), REFUSED)
def test_other_layers_are_refused(tmp_path, model, sentence):
    data = container.encode(pipeline.to_tensors(model, grids={}))
    with pytest.raises(ConfigError, match=sentence):
        firmware.export(tmp_path / "c", model, (4,), data)
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit_are_refused(tmp_path):
    model = nn.Linear(4, 4)
    others = container.encode(pipeline.to_tensors(nn.Linear(4, 4, bias=False), grids={}))
    with pytest.raises(ConfigError, match="bias: is a tensor of the network but not of the file"):
        firmware.export(tmp_path / "c", model, (4,), others)
    narrow = container.encode(pipeline.to_tensors(nn.Linear(3, 4), grids={}))
    with pytest.raises(ConfigError, match=r"weight: has the shape \(4, 3\) in the file and \(4, 4\) in the network"):
        firmware.export(tmp_path / "c", model, (4,), narrow)
    double = container.encode(pipeline.to_tensors(nn.Linear(4, 4).double(), grids={}))
    with pytest.raises(ConfigError, match="weight: is float64; C reads float32"):
        firmware.export(tmp_path / "c", model, (4,), double)
    with pytest.raises(ConfigError, match=r"Linear: cannot be traced with an input of shape \(5,\)"):
        firmware.export(tmp_path / "c", model, (5,), container.encode(pipeline.to_tensors(model, grids={})))
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_without_force(tmp_path):
    data = container.encode(pipeline.to_tensors(model := nn.Linear(4, 4), grids={}))
    folder = tmp_path / "c"
    firmware.export(folder, model, (4,), data)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "network").write_text("built")
    with pytest.raises(ConfigError, match="exists already; give --force"):
        firmware.export(folder, model, (4,), data)
    firmware.export(folder, model, (4,), data, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt, which would be lost"):
        firmware.export(folder, model, (4,), data, force=True)
    with pytest.raises(ConfigError, match="its folder is missing"):
        firmware.export(tmp_path / "no" / "c", model, (4,), data)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    data = container.encode(pipeline.to_tensors(model := nn.Linear(4, 4), grids={}))
    folder = tmp_path / "c"
    firmware.export(folder, model, (4,), data)
    before = sorted(path.name for path in folder.iterdir())

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="free some space"):
        firmware.export(folder, model, (4,), data, force=True)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_the_command_refuses_what_goes_with_other_files_only(tmp_path):
    path = ROOT / "models" / "lenet5-mnist.metaq"
    for options, sentence in (
        (["--exact"], "only .onnx files are ever rounded"),
        (["--input-shape", "1,28,28:int64"], "int64 is nothing that C is written for"),
        (["--input-shape", "784", "--input-shape", "1"], "networks with one input"),
        (["--net", "nets:own"], "give the shape of its input"),
    ):
        status, out, err = export_c(path, tmp_path / "c", *options)
        assert (status, out) == (2, "")
        assert sentence in err
        assert err.count("\n") == 1
    torch.save(checkpoint.read(path), tmp_path / "model.pth")
    assert "is no .metaq file" in export_c(tmp_path / "model.pth", tmp_path / "c")[2]
    assert [each.name for each in tmp_path.iterdir()] == ["model.pth"]


def test_offsets_share_memory_that_is_not_needed_at_once():
    chain = [[Interval(size=size, first=number, last=number + 1)] for number, size in enumerate((3, 9, 2, 5))]
    offsets, total = offsets_of(chain)
    assert total == 12
    assert offsets[1] == 0


@pytest.mark.slow
@pytest.mark.skipif(
    ARM_COMPILER is None or not shutil.which("qemu-system-arm") or not shutil.which("make"),
    reason="no compiler for ARM, or no QEMU",
)
def test_a_cortex_m4_gives_the_same_classes(tmp_path):
    path = ROOT / "models" / "lenet5-mnist.metaq"
    exported(path, tmp_path / "c")
    images = torch.randint(0, 256, (2, 28 * 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    command = ["make", "-s", "-C", str(tmp_path / "c"), "arm", "qemu"]
    done = subprocess.run(command, input=images.numpy().tobytes(), capture_output=True, check=True, timeout=120)
    found = np.array([line.split() for line in done.stdout.decode().splitlines()], dtype=np.float64)
    with torch.no_grad():
        expected = runs.build("lenet5", checkpoint.read(path)).eval()(images.reshape(2, 1, 28, 28) / 255)
    assert np.allclose(found[:, 1:], expected, atol=1e-4)
    assert found[:, 0].tolist() == expected.argmax(dim=1).tolist()
