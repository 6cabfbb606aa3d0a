from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import metaq
from metaq import container, load
from metaq.compression import survey, uncalibrated
from metaq.compression.compressed import Goal, Report
from metaq.compression.compressing import compress_to_file
from metaq.compression.restoring import restore_folder
from metaq.compression.work import Attempt, WorkFolder, work_path
from metaq.errors import ConfigError, OutputError
from metaq.model import checkpoint
from metaq.model.opened import open_model
from metaq.model.stored import Reader
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import QuantizedTensor

from .conftest import CHUNK_BITS, LARGE, tensors

GOALS = ("target_bytes", "target_ratio")


def compress(folder: Path, out: Path, **options: object) -> Report:
    goal = Goal(**{name: options.pop(name) for name in GOALS if name in options})  # type: ignore[arg-type]
    return compress_to_file(open_model(folder), out, goal, coder="fast", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(made_folder, tmp_path_factory) -> bytes:
    """The file of the folder, made without interruption."""
    out = tmp_path_factory.mktemp("whole") / "model.metaq"
    compress(made_folder, out)
    assert [path.name for path in out.parent.iterdir()] == ["model.metaq"]
    return out.read_bytes()


def reasons(report: Report) -> dict[str, str]:
    return {part.name: part.reason for part in report.coverage.left_out}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_the_file_is_the_one_that_is_written_at_once(whole):
    file = container.decode(whole)
    assert file.version == 1
    assert len(file.bases) == 1
    assert container.encode(file.tensors, metadata=file.metadata, coder="fast", chunk_bits=CHUNK_BITS) == whole
    by_name = {tensor.name: tensor for tensor in file.tensors}
    assert bytes(by_name["file:short.txt"].restore()) == b"short"
    assert by_name["file:empty.txt"].shape == (0,)
    basis_users = [n for n, t in by_name.items() if isinstance(t, QuantizedTensor) and t.basis is not None]
    assert "embed.weight" in basis_users


def test_weights_come_back_about_as_they_were_and_the_rest_exactly(whole, tmp_path):
    path = tmp_path / "model.metaq"
    path.write_bytes(whole)
    restored, expected = load(path), tensors()
    assert restored.keys() == expected.keys()
    for name in ("embed.position_ids", "nothing.weight", "norm.running_mean", "scalar"):
        assert torch.equal(restored[name], expected[name])
    # The largest tensor has most of the squares; those of small numbers may take larger errors.
    for name in ("embed.weight", "layer.0.weight", "layer.1.weight", "layer.2.weight", "layer.3.weight"):
        assert 0.0001 < relative_error(restored[name], expected[name]) < 0.35
    for name in ("layer.0.bias", "layer.0.norm.weight"):
        assert relative_error(restored[name], expected[name]) < 0.03
    assert checkpoint.read(path).keys() == expected.keys()


def test_what_is_reported(made_folder, tmp_path):
    report = compress(made_folder, tmp_path / "m.metaq")
    assert report.file_bytes == (tmp_path / "m.metaq").stat().st_size
    assert 0 < report.carried_bytes < 400
    assert report.left_out == {"pytorch_model.bin": "holds weights in another form"}
    assert reasons(report) == {
        "embed.position_ids": "integer",
        "norm.running_mean": "running statistics of batch normalisation",
        "nothing.weight": "empty",
        "scalar": "too small to pay",
    }
    assert report.coverage.share > 0.99
    assert report.float_bytes / report.file_bytes > 5


class StopError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("done", [0, 1, 3])
def test_an_interrupted_run_goes_on_to_the_same_file(made_folder, tmp_path, monkeypatch, whole, done):
    out = tmp_path / "model.metaq"
    added = []
    add_chunk = Attempt.add_chunk

    def add_some(self, number, payload):
        if len(added) == done:
            raise StopError
        added.append(number)
        add_chunk(self, number, payload)

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "add_chunk", add_some)
        with pytest.raises(StopError):
            compress(made_folder, out)
    assert not out.exists()
    added_again = []

    def add_rest(self, number, payload):
        added_again.append(number)
        add_chunk(self, number, payload)

    monkeypatch.setattr(Attempt, "add_chunk", add_rest)
    report = compress(made_folder, out)
    assert not report.has_discarded
    assert out.read_bytes() == whole
    assert set(added).isdisjoint(added_again)
    assert [path.name for path in tmp_path.iterdir()] == ["model.metaq"]


KILLED = """
import os, signal, sys
from pathlib import Path
from metaq.compression import coding
from metaq.compression import quantizing
from metaq.compression import survey
quantizing.SEARCHED_ELEMENTS, coding.CHUNK_BITS, survey.BLOCK = map(int, sys.argv[3:])
from metaq.compression.work import Attempt
from metaq.compression.compressing import compress_to_file
from metaq.compression.compressed import Goal
from metaq.model.opened import open_model
add_chunk = Attempt.add_chunk
def add(self, number, payload):
    add_chunk(self, number, payload)
    self._journal.write(b'0000abcd {"chunk": 99, "si')
    self._journal.flush()
    os.kill(os.getpid(), signal.SIGKILL)
Attempt.add_chunk = add
compress_to_file(open_model(Path(sys.argv[1])), Path(sys.argv[2]), Goal(), coder="fast")
"""


def test_a_killed_run_leaves_no_file_and_goes_on(made_folder, tmp_path, whole):
    out = tmp_path / "model.metaq"
    settings = map(str, (LARGE, CHUNK_BITS, survey.BLOCK))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(made_folder), str(out), *settings], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".model.metaq.partial"]
    compress(made_folder, out)
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["model.metaq"]


def interrupted(folder, out, monkeypatch, *, after: int = 2) -> None:
    left = [after]
    add_chunk = Attempt.add_chunk

    def add(self, number, payload):
        add_chunk(self, number, payload)
        left[0] -= 1
        if not left[0]:
            raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "add_chunk", add)
        with pytest.raises(StopError):
            compress(folder, out)


@pytest.mark.parametrize("name", ["attempt-0/payloads", "attempt-0/journal", "job.json"])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9])
def test_damaged_remains_do_not_get_into_the_file(made_folder, tmp_path, monkeypatch, whole, name, place):
    out = tmp_path / "model.metaq"
    interrupted(made_folder, out, monkeypatch)
    path = work_path(out) / name
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 8
    path.write_bytes(bytes(data))
    compress(made_folder, out)
    assert out.read_bytes() == whole


def test_other_options_or_another_folder_begin_anew(folder, tmp_path, monkeypatch, whole):
    out = tmp_path / "model.metaq"
    interrupted(folder, out, monkeypatch)
    report = compress(folder, out, exclude=["layer.3.*"])
    assert report.has_discarded
    assert reasons(report)["layer.3.weight"] == "excluded by layer.3.*"
    interrupted(folder, out, monkeypatch)
    (folder / "short.txt").write_text("SHORT")
    assert compress(folder, out).has_discarded
    assert out.read_bytes() != whole


def test_two_runs_do_not_work_on_one_output(folder, tmp_path):
    out = tmp_path / "model.metaq"
    with WorkFolder(out, {}), pytest.raises(ConfigError, match="another run"):
        compress(folder, out)


def test_a_full_disk_is_said_and_the_run_goes_on_later(folder, tmp_path, monkeypatch):
    out = tmp_path / "model.metaq"

    class Full:
        def __init__(self, stream):
            self._stream = stream
            self._left = 2

        def write(self, data):
            self._left -= 1
            if self._left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._stream.write(data)

        def __getattr__(self, name):
            return getattr(self._stream, name)

    init = Attempt.__init__

    def with_full_disk(self, *arguments):
        init(self, *arguments)
        self._payloads = Full(self._payloads)

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "__init__", with_full_disk)
        with pytest.raises(OutputError, match=r"No space left.*same command goes on"):
            compress(folder, out)
    assert not out.exists()
    compress(folder, out)
    assert container.decode(out.read_bytes()).metadata == {"folder": 1}


def test_a_place_that_cannot_be_written(folder):
    with pytest.raises(OutputError, match=r"/dev/full/m\.metaq"):
        compress(folder, Path("/dev/full/m.metaq"))


@pytest.mark.parametrize("options", [{"target_bytes": 60_000}, {"target_ratio": 9.0}])
def test_a_budget_is_met_and_hardly_missed(made_folder, tmp_path, options):
    report = compress(made_folder, tmp_path / "m.metaq", **options)
    limit = options.get("target_bytes") or report.float_bytes / options["target_ratio"]
    assert report.file_bytes == (tmp_path / "m.metaq").stat().st_size
    assert 0.97 * limit <= report.file_bytes <= limit
    assert [path.name for path in tmp_path.iterdir()] == ["m.metaq"]


def test_a_budget_is_resumed(made_folder, tmp_path, monkeypatch):
    out = tmp_path / "model.metaq"
    with monkeypatch.context() as patched:
        patched.setattr(uncalibrated, "assemble", lambda *_: (_ for _ in ()).throw(StopError))
        with pytest.raises(StopError):
            compress(made_folder, out, target_bytes=60_000)
    with monkeypatch.context() as patched:
        # All chunks are there, so that nothing is coded any more.
        patched.setattr(Attempt, "add_chunk", None)
        report = compress(made_folder, out, target_bytes=60_000)
    assert report.file_bytes <= 60_000


def test_a_budget_that_cannot_be_met_leaves_nothing(made_folder, tmp_path):
    with pytest.raises(ConfigError, match="no file of 200 bytes"):
        compress(made_folder, tmp_path / "m.metaq", target_bytes=200)
    assert list(tmp_path.iterdir()) == []
    assert not (tmp_path / "m.metaq").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_bytes": 9, "target_ratio": 2.0}, "give one of them"),
        ({"target_bytes": 0}, "positive"),
        ({"target_ratio": float("nan")}, "positive"),
        ({"include": ["embedding*"]}, "embedding"),
        ({"exclude": ["*"]}, "no floating tensor"),
        ({"grids": {"nobody": BucketGrid(center=0.0, radius=1.0, count=3)}}, "nobody"),
    ],
)
def test_impossible_options(made_folder, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        compress(made_folder, tmp_path / "m.metaq", **options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_no_file_can_hold_are_refused_at_once(made_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("metaq.container.layout.MAX_ELEMENTS", 100_000)
    with pytest.raises(ConfigError, match="split the model"):
        compress(made_folder, tmp_path / "m.metaq")
    assert list(tmp_path.iterdir()) == []


def test_coders_are_checked(made_folder, tmp_path):
    with pytest.raises(ConfigError, match="small or fast"):
        compress_to_file(open_model(made_folder), tmp_path / "m.metaq", Goal(), coder="auto")


def saved(folder: Path, held: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(held, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_narrow_sources_come_back_in_their_type(tmp_path, dtype):
    generator = torch.Generator().manual_seed(1)
    scale = 80.0 if dtype in (torch.float8_e4m3fn, torch.float8_e5m2) else 0.05
    held = {
        "small": (scale * torch.randn(64, 80, generator=generator)).clamp(-440, 440).to(dtype),
        "large": (scale * torch.randn(120, 128, generator=generator)).clamp(-440, 440).to(dtype),
        "small_scale": torch.rand(40, generator=generator),
    }
    out = tmp_path / "m.metaq"
    compress(saved(tmp_path / "model", held), out)
    file = container.read(out)
    assert (
        container.encode(file.tensors, metadata=file.metadata, coder="fast", chunk_bits=CHUNK_BITS) == out.read_bytes()
    )
    restored = load(out)
    for name, tensor in held.items():
        assert restored[name].dtype == tensor.dtype
        assert relative_error(restored[name], tensor) < 0.3
    for name in ("small", "large"):
        assert isinstance(next(t for t in file.tensors if t.name == name), QuantizedTensor)
    restore_folder(out, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name].view(torch.uint8), restored[name].view(torch.uint8)) for name in held)


def test_numbers_that_no_grid_has_are_kept_and_named(tmp_path):
    generator = torch.Generator().manual_seed(1)
    held = {name: torch.randn(120, 128, generator=generator) for name in ("good", "nan", "inf")}
    held["nan"][3, 4] = float("nan")
    held["inf"][5, 6] = float("-inf")
    held["huge"] = torch.full((20,), 1e308, dtype=torch.float64)
    out = tmp_path / "m.metaq"
    report = compress(saved(tmp_path / "model", held), out)
    assert reasons(report) == dict.fromkeys(("huge", "inf", "nan"), "holds NaN, infinity or numbers near it")
    restored = load(out)
    for name in ("nan", "inf", "huge"):
        assert restored[name].numpy().tobytes() == held[name].numpy().tobytes()


def test_odd_tensors_pass(tmp_path):
    generator = torch.Generator().manual_seed(1)
    held = {
        "constant": torch.full((120, 128), 0.25),
        "long": 0.1 * torch.randn(20_000, generator=generator),
        "pruned": torch.randn(120, 128, generator=generator) * (torch.rand(120, 128, generator=generator) < 0.1),
        "wide": 0.1 * torch.randn(1, 20_000, generator=generator),
        "zeros": torch.zeros(120, 128),
        "limits": torch.full((120, 128), 65504.0, dtype=torch.float16),
    }
    out = tmp_path / "m.metaq"
    compress(saved(tmp_path / "model", held), out)
    file = container.read(out)
    assert (
        container.encode(file.tensors, metadata=file.metadata, coder="fast", chunk_bits=CHUNK_BITS) == out.read_bytes()
    )
    restored = load(out)
    assert torch.equal(restored["zeros"], held["zeros"])
    assert all(torch.isfinite(tensor).all() for tensor in restored.values())
    assert torch.equal(restored["constant"], held["constant"])
    assert torch.equal(restored["limits"], held["limits"])
    assert not restored["pruned"][held["pruned"] == 0].any()
    assert all(relative_error(restored[name], held[name]) < 0.4 for name in ("long", "pruned", "wide"))


def test_scales_that_differ_much_are_neither_spoilt_nor_spared(tmp_path):
    generator = torch.Generator().manual_seed(1)
    held = {f"s{n}": 10.0**n * torch.randn(128, 128, generator=generator) for n in (-4, -2, 0, 2, 4)}
    out = tmp_path / "m.metaq"
    compress(saved(tmp_path / "model", held), out)
    restored = load(out)
    errors = [relative_error(restored[name], tensor) for name, tensor in held.items()]
    # A factor of four in importance either way is one of two in the error.
    assert max(errors) < 4.5 * min(errors)


def test_relative_errors_of_matrices_grow_with_their_weights(tmp_path):
    generator = torch.Generator().manual_seed(1)
    held = {f"s{rows}": torch.randn(rows, 128, generator=generator) for rows in (128, 512, 2048)}
    out = tmp_path / "m.metaq"
    compress(saved(tmp_path / "model", held), out)
    restored = load(out)
    small, middle, large = (relative_error(restored[name], tensor) for name, tensor in held.items())
    # The squares are as the numbers of weights: four times as many.
    assert 1.7 < middle / small < 2.3
    assert 1.7 < large / middle < 2.3


def test_grids_that_are_given_are_used(made_folder, tmp_path):
    grid = BucketGrid(center=0.0, radius=0.25, count=11)
    out = tmp_path / "m.metaq"
    report = compress(made_folder, out, grids={"layer.1.weight": grid, "layer.0.weight": grid})
    restored, expected = load(out), tensors()
    for name, tensor in expected.items():
        if name in ("layer.0.weight", "layer.1.weight"):
            values = grid.values_of(grid.assign(tensor.double().numpy())).astype(np.float32)
            np.testing.assert_array_equal(restored[name].numpy(), values)
        else:
            assert torch.equal(restored[name], tensor)
            assert name in reasons(report)
    assert report.multiplier is None


def test_weights_are_read_in_blocks(made_folder, tmp_path, monkeypatch):
    reads = []
    elements = Reader.elements

    def recorded(self, tensor, start, stop):
        reads.append(stop - start)
        return elements(self, tensor, start, stop)

    monkeypatch.setattr(Reader, "elements", recorded)
    monkeypatch.setattr("metaq.compression.quantizing.LEARNED_WEIGHTS", 1 << 10)
    compress(made_folder, tmp_path / "m.metaq")
    # A piece of a chunk is the most that is read at once.
    assert max(reads) <= 4 << CHUNK_BITS < max(tensor.nbytes for tensor in tensors().values())


class Recorder:
    def __init__(self):
        self.stages = []

    def stage(self, label, total_bytes):
        self.stages.append([label, total_bytes, 0])

    def advance(self, size_bytes):
        self.stages[-1][2] += size_bytes


def test_progress_ends_where_it_said(made_folder, tmp_path):
    progress = Recorder()
    compress(made_folder, tmp_path / "m.metaq", progress=progress)
    assert [label for label, _, _ in progress.stages] == [
        "looking at weights",
        "scaling rows and columns",
        "compressing",
    ]
    assert all(total == done for _, total, done in progress.stages)
    restored = Recorder()
    restore_folder(tmp_path / "m.metaq", tmp_path / "back", progress=restored)
    assert all(total == done for _, total, done in restored.stages)


@pytest.mark.parametrize("common", ["all", "rows", "columns"])
def test_tables_far_from_zero_keep_what_differs_in_them(common):
    generator = torch.Generator().manual_seed(0)
    shape = {"all": (), "rows": (256, 1), "columns": (32,)}[common]
    table = torch.randn(256, 32, generator=generator) + 1000 * (1 + torch.rand(shape, generator=generator))
    plain = torch.randn(64, 64, generator=generator)
    found = metaq.compress({"table": table, "plain": plain}).state_dict()
    differing = table - {"all": table.mean(), "rows": table.mean(1, True), "columns": table.mean(0, True)}[common]
    assert (found["table"] - table).norm() < 0.05 * differing.norm()
    # No number is so large that it hides what differs.
    wide = 1e6 + 1e-3 * torch.randn(64, 64, generator=generator, dtype=torch.float64)
    assert (metaq.compress({"wide": wide}).state_dict()["wide"] - wide).norm() < 0.05 * (wide - 1e6).norm()
    assert (found["plain"] - plain).norm() < 0.05 * plain.norm()


def test_names_are_strings():
    with pytest.raises(ConfigError, match="1: is no name of a tensor"):
        metaq.compress({1: torch.randn(30, 30)})  # type: ignore[dict-item]


def test_tensors_without_elements_may_have_any_strides():
    found = metaq.compress({"empty": torch.zeros(1).expand(0), "w": torch.randn(30, 30)}).state_dict()
    assert found["empty"].shape == (0,)
