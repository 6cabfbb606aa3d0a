"""Model files through the commands: what is said, what comes back, and what is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from metaq import decode, load

from .conftest import run_metaq

SIZE = 64


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    layers = [layer for _ in range(40) for layer in (nn.Linear(SIZE, SIZE), nn.BatchNorm1d(SIZE))]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(4, SIZE)).sum().backward()
    optimizer.step()
    held = {"model": {"state_dict": network.state_dict(), "args": {"a": 1}}, "optimizer": optimizer.state_dict()}
    torch.save({**held, "epoch": 3}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """An ONNX file whose larger weights lie beside it."""
    generator = np.random.default_rng(0)
    first, second = (generator.normal(0, 0.1, (SIZE, SIZE)).astype(np.float32) for _ in range(2))
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "first"], ["h"]), helper.make_node("MatMul", ["h", "second"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIZE])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "alone.onnx")
    place = tmp_path / "in"
    place.mkdir()
    onnx.save(model, place / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return place / "model.onnx"


def keras_arrays() -> dict[str, np.ndarray]:
    """Variables as Keras 3 names them: a layer, and its optimizer's count of steps, learning rate and moments."""
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(0, 0.1, (SIZE, SIZE)).astype(np.float32)
        for name in ("layers/dense/vars/0", "optimizer/vars/2", "optimizer/vars/3")
    }
    return {**arrays, "optimizer/vars/0": np.int64(7), "optimizer/vars/1": np.float32(0.01)}


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """All variables in a file of HDF5, or in an archive of Keras."""
    content = path.read_bytes()
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            content = archive.read("model.weights.h5")
    with h5py.File(io.BytesIO(content)) as file:
        return {name: file[name][()] for name in keras_arrays()}


@pytest.fixture(params=["model.weights.h5", "model.keras"])
def keras_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file of Keras with the state of an optimizer."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for name, array in keras_arrays().items():
            file[name] = array
    place = tmp_path / "in"
    place.mkdir()
    path = place / request.param
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", weights.getvalue())
    else:
        path.write_bytes(weights.getvalue())
    return path


def test_what_is_said_of_a_checkpoint_takes_few_lines(tmp_path, nested):
    told = run_metaq("compress", nested, "-o", tmp_path / "m.metaq")
    assert told.status == 0, told.err
    rows = [line for line in told.out.splitlines() if line.strip(" ─")]
    assert len(rows) + len(told.err.splitlines()) <= 13
    assert "320 bytes in 40 tensors: integer" in told.out
    assert "note: weights were found under 'model.state_dict'" in told.err
    assert "left out: optimizer (optimizer state" in told.err
    assert "warning" not in told.err
    assert f'metaq.load("{tmp_path / "m.metaq"}")' in told.out


def test_json_has_everything(tmp_path, nested):
    told = run_metaq("compress", nested, "-o", tmp_path / "m.metaq", "--json").json
    assert told["left_out"].keys() == {"optimizer", "epoch", "model.args"}
    assert told["notes"] == ["weights were found under 'model.state_dict'"]
    assert 0 < told["relative_error"] < 0.1
    assert len([part for part in told["not_quantized"] if "num_batches_tracked" in part["name"]]) == 40


def test_a_checkpoint_comes_back_with_or_without_the_rest(tmp_path, nested):
    wanted = torch.load(nested, weights_only=True)
    for options, keys in (((), {"model"}), (("--keep-all",), {"model", "optimizer", "epoch"})):
        packed, back = tmp_path / "m.metaq", tmp_path / "back.ckpt"
        assert run_metaq("compress", nested, "-o", packed, "--force", *options).status == 0
        told = run_metaq("decompress", packed, "-o", back, "--force")
        assert told.status == 0, told.err
        found = torch.load(back, weights_only=True)
        assert found.keys() == keys
        assert found["model"]["state_dict"].keys() == wanted["model"]["state_dict"].keys()
        # Moments of the optimizer are none of the weights.
        assert load(packed).keys() == wanted["model"]["state_dict"].keys()
    moments = found["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, wanted["optimizer"]["state"][0]["exp_avg"])


def test_without_a_loss_the_same_file_comes_back(tmp_path, nested):
    assert run_metaq("compress", nested, "-o", tmp_path / "m.metaq", "--lossless").status == 0
    assert run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "back.ckpt").status == 0
    assert (tmp_path / "back.ckpt").read_bytes() == nested.read_bytes()
    # PyTorch's files go by many endings.
    assert run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "back.pt").status == 0
    assert (tmp_path / "back.pt").read_bytes() == nested.read_bytes()
    # As other files, it is what its suffix says.
    assert run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "back.npz").status == 0
    assert np.load(tmp_path / "back.npz").keys() == torch.load(nested)["model"]["state_dict"].keys()


def test_a_file_of_keras_comes_back_with_zeros_for_the_moments_of_the_optimizer(tmp_path, keras_file):
    packed, back = tmp_path / "m.metaq", tmp_path / f"back{keras_file.suffix}"
    told = run_metaq("compress", keras_file, "-o", packed)
    assert told.status == 0, told.err
    assert "left out: optimizer (optimizer state, 32.8 kB; zeros come back)" in told.err
    assert "kept as it is" not in told.err
    assert packed.stat().st_size < 2 * SIZE * SIZE
    told = run_metaq("decompress", packed, "-o", back)
    assert told.status == 0, told.err
    assert back.stat().st_size == keras_file.stat().st_size
    wanted, found = keras_arrays(), read_keras(back)
    name = "layers/dense/vars/0"
    np.testing.assert_array_equal(found[name], decode.load(packed)[name])
    assert 0 < np.linalg.norm(found[name] - wanted[name]) < 0.05 * np.linalg.norm(wanted[name])
    for number in (2, 3):
        assert not found[f"optimizer/vars/{number}"].any()
    for number in (0, 1):
        np.testing.assert_array_equal(found[f"optimizer/vars/{number}"], wanted[f"optimizer/vars/{number}"])


def test_a_file_of_keras_comes_back_with_its_optimizer_if_all_is_kept(tmp_path, keras_file):
    packed, back = tmp_path / "m.metaq", tmp_path / f"back{keras_file.suffix}"
    assert run_metaq("compress", keras_file, "-o", packed, "--keep-all").status == 0
    assert run_metaq("decompress", packed, "-o", back).status == 0
    wanted, found = keras_arrays(), read_keras(back)
    name = "layers/dense/vars/0"
    assert not np.array_equal(found.pop(name), wanted.pop(name))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert run_metaq("compress", keras_file, "-o", packed, "--lossless", "--force").status == 0
    assert run_metaq("decompress", packed, "-o", back, "--force").status == 0
    assert back.read_bytes() == keras_file.read_bytes()


@pytest.mark.parametrize("options", [(), ("--keep-all",)])
def test_the_optimizer_of_a_file_of_keras_in_a_folder_is_left_out_too(tmp_path, keras_file, options):
    (keras_file.parent / "config.json").write_text("{}")
    packed, back = tmp_path / "m.metaq", tmp_path / "back"
    told = run_metaq("compress", keras_file.parent, "-o", packed, *options)
    assert told.status == 0, told.err
    assert (f"left out: {keras_file.name}/optimizer (optimizer state" in told.err) == (not options)
    assert run_metaq("decompress", packed, "-o", back).status == 0
    assert read_keras(back / keras_file.name)["optimizer/vars/2"].any() == bool(options)


def test_a_graph_comes_back_as_one_that_runs(tmp_path, graph):
    x = np.random.default_rng(1).normal(size=(3, SIZE)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(graph).run(None, {"x": x})
    for source, out in ((tmp_path / "alone.onnx", "back.onnx"), (graph, "back")):
        packed = tmp_path / f"{out}.metaq"
        told = run_metaq("compress", source, "-o", packed)
        assert told.status == 0, told.err
        assert packed.stat().st_size < 4 * SIZE * SIZE
        told = run_metaq("decompress", packed, "-o", tmp_path / out)
        assert told.status == 0, told.err
        back = tmp_path / out if out.endswith(".onnx") else tmp_path / out / "model.onnx"
        onnx.checker.check_model(back, full_check=True)
        (found,) = onnxruntime.InferenceSession(back).run(None, {"x": x})
        assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)
        assert decode.load(packed)["first"].shape == (SIZE, SIZE)


def test_a_graph_is_exported_with_integers_and_without_the_network(tmp_path, graph):
    x = np.random.default_rng(1).normal(size=(3, SIZE)).astype(np.float32)
    for source in (tmp_path / "alone.onnx", graph):
        run_metaq("compress", source, "-o", tmp_path / "m.metaq", "--force")
        told = run_metaq("export", tmp_path / "m.metaq", "-o", tmp_path / "small.onnx", "--force")
        assert told.status == 0, told.err
        made = onnx.load(tmp_path / "small.onnx")
        onnx.checker.check_model(made, full_check=True)
        assert {node.op_type for node in made.graph.node} >= {"DequantizeLinear", "MatMul"}
        assert (tmp_path / "small.onnx").stat().st_size < 1.2 * 2 * SIZE * SIZE
        (wanted,) = onnxruntime.InferenceSession(graph).run(None, {"x": x})
        (found,) = onnxruntime.InferenceSession(tmp_path / "small.onnx").run(None, {"x": x})
        assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)
    told = run_metaq("export", tmp_path / "m.metaq", "-o", tmp_path / "x.onnx", "--net", "lenet5")
    assert told.status == 2
    assert "leave out --net" in told.err


def test_files_that_belong_together_need_a_folder(tmp_path, graph):
    run_metaq("compress", graph, "-o", tmp_path / "m.metaq")
    told = run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "back.onnx")
    assert told.status == 2
    assert "model.onnx, model.onnx.data belong together" in told.err
    assert not (tmp_path / "back.onnx").exists()
    assert run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "v1.5").status == 0
    assert {path.name for path in (tmp_path / "v1.5").iterdir()} == {"model.onnx", "model.onnx.data"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--key", "nowhere"), "nowhere"),
        (("--lossless", "--target-ratio", "4"), "lossless"),
        (("--lossless", "--include", "model*"), "lossless"),
        (("--lossless", "--calibrate", "x.npy"), "--lossless"),
    ],
)
def test_options_that_do_not_fit(tmp_path, nested, options, named):
    told = run_metaq("compress", nested, "-o", tmp_path / "m.metaq", *options)
    assert told.status == 2
    assert named in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "m.metaq").exists()


def test_a_key_is_for_checkpoints(tmp_path, graph):
    told = run_metaq("compress", graph, "-o", tmp_path / "m.metaq", "--key", "model")
    assert told.status == 2
    assert "leave the key out" in told.err


def test_an_average_that_shares_its_weights_lies_beside_them(tmp_path):
    weights = {f"module.{name}": tensor for name, tensor in nn.Linear(SIZE, SIZE).state_dict().items()}
    torch.save({"state_dict": weights, "ema": dict(weights)}, tmp_path / "both.ckpt")
    for options in (("--keep-all",), ("--keep-all", "--key", "ema")):
        told = run_metaq("compress", tmp_path / "both.ckpt", "-o", tmp_path / "m.metaq", "--force", *options)
        assert told.status == 0, told.err
        assert load(tmp_path / "m.metaq").keys() == {"weight", "bias"}
        run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "back.ckpt", "--force")
        found = torch.load(tmp_path / "back.ckpt")
        assert found.keys() == {"state_dict", "ema"}
        assert all(torch.equal(found["ema"][name], found["state_dict"][name]) for name in weights)
        # What is packed once can be packed again.
        again = run_metaq("compress", tmp_path / "m.metaq", "-o", tmp_path / "again.metaq", "--force")
        assert again.status == 0, again.err
        assert load(tmp_path / "again.metaq").keys() == {"weight", "bias"}


def test_data_behind_a_user_block_are_not_called_damaged(tmp_path):
    with h5py.File(tmp_path / "matlab.h5", "w", userblock_size=1024) as file:
        file["weight"] = np.ones((SIZE, SIZE), np.float32)
    told = run_metaq("compress", tmp_path / "matlab.h5", "-o", tmp_path / "m.metaq")
    assert told.status == 2
    assert "has a user block" in told.err


def test_a_file_that_is_no_smaller_is_told(tmp_path):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=4).astype(np.float32))
    (tmp_path / "few.bin").write_bytes(np.random.default_rng(0).bytes(60))
    for name, options in (("few.npy", ()), ("few.bin", ("--lossless",))):
        told = run_metaq("compress", tmp_path / name, "-o", tmp_path / "m.metaq", "--force", *options)
        assert told.status == 0, told.err
        size = (tmp_path / name).stat().st_size
        assert (f"{name} has {size:,} bytes; the file is no smaller" in " ".join(told.err.split())) == (
            (tmp_path / "m.metaq").stat().st_size >= size
        )
    assert "the file is no smaller" in " ".join(told.err.split())


def test_what_lies_beside_the_weights_stays_exact_when_packed_again(tmp_path, nested):
    run_metaq("compress", nested, "-o", tmp_path / "m.metaq", "--keep-all")
    run_metaq("compress", tmp_path / "m.metaq", "-o", tmp_path / "again.metaq")
    run_metaq("decompress", tmp_path / "again.metaq", "-o", tmp_path / "back.ckpt")
    found, wanted = (torch.load(path)["optimizer"]["state"] for path in (tmp_path / "back.ckpt", nested))
    assert all(torch.equal(found[n][part], wanted[n][part]) for n in wanted for part in ("exp_avg", "exp_avg_sq"))
    told = run_metaq("report", tmp_path / "m.metaq", "-o", tmp_path / "m.html")
    assert told.status == 0, told.err


def test_a_picture_never_replaces_what_is_read(nested):
    before = nested.read_bytes()
    told = run_metaq("inspect", nested, "--plot", nested, "--force")
    assert told.status == 2
    assert "is what is read" in told.err
    assert nested.read_bytes() == before


def test_data_of_a_graph_count_among_its_bytes(tmp_path, graph):
    told = run_metaq("compress", graph, "-o", tmp_path / "m.metaq")
    assert told.status == 0, told.err
    assert graph.stat().st_size < (tmp_path / "m.metaq").stat().st_size
    assert "no smaller" not in told.err


def test_no_file_that_belongs_to_a_model_is_replaced(graph):
    data = graph.with_name("model.onnx.data")
    before = data.read_bytes()
    for source in (graph, graph.parent):
        told = run_metaq("compress", source, "-o", data, "--force")
        assert told.status == 2
        assert "is what is read" in told.err
        assert data.read_bytes() == before
    for _ in range(2):
        assert run_metaq("compress", graph.parent, "-o", graph.parent / "model.metaq", "--force").status == 0
