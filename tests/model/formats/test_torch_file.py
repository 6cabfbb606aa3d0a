import argparse
import io
import pathlib
import pickle
import random
import struct
import tarfile
import types
import warnings
import zipfile
import zlib
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from metaq.errors import FormatError
from metaq.model import checkpoint
from metaq.model.formats import torch_state
from metaq.model.formats.torch_file import read
from metaq.model.stored import FileRange, Reader
from metaq.tensors.quantized import Dtype, under_all_names

SAVES = {
    "zip": torch.save,
    "zip, protocol 5": lambda value, path: torch.save(value, path, pickle_protocol=5),
    "before 1.6": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value, protocol=4)),
    "pickle of python 2": lambda value, path: path.write_bytes(pickle.dumps(value, protocol=0)),
}
CONTAINERS = {name: SAVES[name] for name in ("zip", "before 1.6")}


def tar(*names: str) -> bytes:
    """An archive with these members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))
    return stream.getvalue()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=SAVES)
def save(request):
    return SAVES[request.param]


@pytest.fixture(params=CONTAINERS)
def container(request):
    return CONTAINERS[request.param]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "0.weight": torch.randn(8, 4, generator=generator),
        "0.bias": torch.randn(8, generator=generator),
        "2.weight": torch.randn(3, 8, generator=generator),
    }


def optimizer_state() -> dict:
    module = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def values(file) -> dict[str, torch.Tensor]:
    """All tensors of a weight file by all their names."""
    with Reader() as reader:
        held = {tensor.name: reader.exact(tensor) for tensor in file.tensors}
    return checkpoint.restore(under_all_names(held, {**{name: name for name in held}, **file.ties}))


def same(found, expected) -> bool:
    """Whether state dicts have the same names, types, shapes and bits."""

    def bits(tensor):
        return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()

    return {name: bits(tensor) for name, tensor in found.items()} == {name: bits(t) for name, t in expected.items()}


def ranges(file) -> list[tuple[int, int]]:
    found = [(t.place.start, t.place.start + t.size_bytes) for t in file.tensors if isinstance(t.place, FileRange)]
    return sorted(found)


def overwritten(file, out) -> dict[str, torch.Tensor]:
    """Writes a copy with other tensors in the ranges, and the checksums of the copy; gives these tensors."""
    assert len(ranges(file)) == len(file.tensors)
    data = bytearray(file.path.read_bytes())
    for tensor in file.tensors:
        start, stop = tensor.place.start, tensor.place.start + tensor.size_bytes
        data[start:stop] = bytes(byte ^ 1 for byte in data[start:stop])
    for checksum in file.checksums.get(file.path, ()):
        crc = zlib.crc32(data[checksum.start : checksum.stop])
        assert data[checksum.position : checksum.position + 4] != crc.to_bytes(4, "little")
        data[checksum.position : checksum.position + 4] = crc.to_bytes(4, "little")
    out.write_bytes(data)
    return values(read(out, keep_all=True))


def require_refused(path, *words: str, **options) -> None:
    with pytest.raises(FormatError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(".")
    for word in words:
        assert word in message


class Net(nn.Module):
    """A module with what modules can have, in a package of which nothing is left when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 4, bias=False)
        self.decoder = nn.Linear(4, 6, bias=False)
        self.decoder.weight = nn.Parameter(torch.randn(6, 4))
        self.again = self.encoder
        self.register_buffer("mask", torch.ones(3))
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_parameter("missing", None)
        self.note = torch.ones(9)


# Containers


@pytest.mark.parametrize("dtype", list(Dtype), ids=lambda dtype: dtype.name)
def test_every_type_comes_back_bit_for_bit(path, save, dtype):
    bits = torch.randint(0, 256, (6 * dtype.itemsize,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    if dtype is Dtype.bool:
        bits &= 1
    state = {"w": bits.view(getattr(torch, dtype.name)).reshape(2, 3)}
    save(state, path)
    file = read(path)
    assert same(values(file), state)
    assert file.is_state_dict
    assert file.tensors[0].dtype is dtype


def test_tensors_stay_in_the_file(path, container):
    container(weights(), path)
    file = read(path)
    assert len(ranges(file)) == 3
    assert [tensor.name for tensor in file.tensors] == list(weights())


def test_long_tensors_of_a_pickle_stay_in_the_file(path):
    state = {"w": torch.randn(40, 40)}
    for protocol in (3, 4, 5):
        path.write_bytes(pickle.dumps({**state, "a": state["w"].numpy()}, protocol=protocol))
        assert same(values(read(path)), {**state, "a": state["w"]})
        assert len(ranges(read(path))) == 2


def test_views_of_one_storage(path, save):
    flat = torch.randn(400)
    state = {
        "first": flat[:100].view(10, 10),
        "overlapping": flat[50:150].view(10, 10),
        "transposed": flat[:100].view(10, 10).t(),
        "expanded": flat[:10].expand(10, 10),
        "strided": flat[::2],
        "channels_last": flat[:96].view(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "unit": flat[3:4].view(1, 1).expand(1, 1),
        "scalar": flat[7],
        "empty": flat[:0].view(0, 5),
    }
    save(state, path)
    assert same(values(read(path)), state)


def test_an_expanded_tensor_takes_no_memory_that_the_file_does_not_justify(path, container):
    container({"w": torch.ones(1).expand(1 << 40), "v": torch.ones(3)}, path)
    require_refused(path, "clone()")


def test_tied_tensors_are_held_by_the_first_name(path, container):
    shared, other = torch.randn(4, 4), torch.randn(4, 4)
    container({"z": shared, "é": other, "b": shared, "a.c": shared[:], "x": other, "t": shared.t()}, path)
    file = read(path)
    assert {tensor.name for tensor in file.tensors} == {"a.c", "x", "t"}
    assert file.ties == {"z": "a.c", "b": "a.c", "é": "x"}
    assert torch.equal(values(file)["z"], shared)


def test_compressed_archives_are_read_into_memory(path, tmp_path):
    torch.save({**weights(), "v": weights()["0.bias"][::2]}, path)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    file = read(packed)
    assert same(values(file), {**weights(), "v": weights()["0.bias"][::2]})
    assert ranges(file) == []
    require_refused(packed, "compressed", "without --keep-all", keep_all=True)


def legacy(path, top, storages: dict[str, tuple[torch.Tensor, tuple | None]], **machine) -> None:
    """Writes what PyTorch before 1.6 would, `storages` being tensors by their keys, and the parts to view of each."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, types.SimpleNamespace):
                return None
            tensor, view = storages[value.key]
            return ("storage", torch.FloatStorage, value.root, "cpu", len(tensor), view)

    with path.open("wb") as stream:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, **machine}):
            pickle.dump(part, stream, protocol=2)
        Pickler(stream, protocol=2).dump(top)
        roots = {"root": storages["root"][0]}
        pickle.dump(list(roots), stream, protocol=2)
        for tensor in roots.values():
            stream.write(struct.pack("<q", len(tensor)) + tensor.numpy().tobytes())


class Rebuilt:
    """A tensor of a storage with a key."""

    def __init__(self, key: str, offset: int, shape: tuple, strides: tuple) -> None:
        self.arguments = (types.SimpleNamespace(key=key, root="root"), offset, shape, strides)

    def __reduce__(self):
        return torch._utils._rebuild_tensor, self.arguments


def test_storages_that_are_views_of_others(path):
    flat = torch.arange(20.0)
    top = {"whole": Rebuilt("root", 2, (3,), (1,)), "part": Rebuilt("part", 1, (2, 2), (2, 1))}
    legacy(path, top, {"root": (flat, None), "part": (flat, ("part", 10, 6))})
    assert same(values(read(path)), {"whole": flat[2:5], "part": flat[11:15].view(2, 2)})


def test_big_endian_files_are_refused(path):
    legacy(path, {"a": Rebuilt("root", 0, (2,), (1,))}, {"root": (torch.ones(2), None)}, little_endian=False)
    require_refused(path, "big-endian")
    torch.save(weights(), path)
    data = path.read_bytes().replace(b"little", b"bigger")
    data = data.replace(struct.pack("<I", zlib.crc32(b"little")), struct.pack("<I", zlib.crc32(b"bigger")))
    path.write_bytes(data)
    require_refused(path, "big-endian")


# Arrays of numpy


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays(path, protocol):
    arrays = {
        "a": np.arange(200, dtype=np.float32).reshape(10, 20),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "swapped": np.arange(6, dtype=">f8").reshape(2, 3),
        "strided": np.arange(10)[::2],
        "bool": np.array([True, False]),
        "scalar": np.array(3.0, dtype=np.float16),
        "empty": np.zeros((0, 4)),
    }
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = values(read(path))
    for name, array in arrays.items():
        assert found[name].numpy().dtype == array.dtype.newbyteorder("<")
        assert found[name].numpy().tolist() == array.tolist()
    torch.save(arrays, path, pickle_protocol=max(protocol, 2))
    assert same(values(read(path)), found)


def test_arrays_that_are_no_tensors_are_left_out(path, save):
    arrays = {"a": np.ones(3), "b": np.ones(2), "names": np.array(["x"]), "any": np.array([None]), "n": np.float32(3)}
    save(arrays, path)
    file = read(path)
    assert set(values(file)) == {"a", "b"}
    assert set(file.left_out) == {"names", "any", "n"}
    assert file.left_out["names"] == "not a tensor but ndarray"


# Where the weights are


LAYOUTS = {
    "itself": (lambda sd: sd, ()),
    "state_dict": (
        lambda sd: {"epoch": 1, "state_dict": sd, "hyper_parameters": argparse.Namespace(lr=1)},
        "state_dict",
    ),
    "path": (lambda sd: {"state_dict": sd, "data": {"path": pathlib.Path("x")}, "best": np.float64(0.9)}, "state_dict"),
    "model": (lambda sd: {"model": sd, "optimizer": optimizer_state(), "config": {"lr": 1e-3}, "iter": 5}, "model"),
    "net": (lambda sd: {"net": sd, "acc": 93.1}, "net"),
    "module": (lambda sd: {"module": sd, "buffer_names": [], "ds_version": "0.1"}, "module"),
    "weights": (lambda sd: {"weights": sd, "meta": {"a": 1}}, "weights"),
    "unknown": (lambda sd: {"anything": sd, "loss": torch.tensor(0.5)}, "anything"),
    "nested": (
        lambda sd: {"model": {"state_dict": sd, "arguments": {}}, "optimizer": optimizer_state()},
        "model state_dict",
    ),
    "beside statistics": (lambda sd: {"mean": torch.ones(2), "std": torch.ones(2), "net": sd}, "net"),
    "small one beside": (lambda _: {"actor": {"w": torch.ones(99, 99)}, "scale": {"mean": torch.ones(2)}}, "actor"),
    "better known one": (lambda sd: {"net": {"w": torch.ones(8, 8)}, "state_dict": sd}, "state_dict"),
    "schedulers": (lambda sd: {"sd": sd, "lr_schedulers": [{"w": torch.ones(99)}], "rng_state": torch.ones(99)}, "sd"),
    "average": (lambda _: {"params_ema": {"w": torch.ones(9)}}, "params_ema"),
    "dict of a class": (lambda sd: types.SimpleNamespace(state_dict=sd, step=3), "state_dict"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found(path, container, layout):
    make, keys = LAYOUTS[layout]
    key = tuple(keys.split()) if keys else ()
    top = make(weights())
    container(top, path)
    file = read(path)
    expected = top
    for part in key:
        expected = expected[part] if isinstance(expected, dict) else getattr(expected, part)
    assert same(values(file), expected)
    assert file.key == key
    assert file.is_state_dict
    assert any(f"'{'.'.join(key)}'" in note for note in file.notes) == bool(key)


def test_what_is_beside_the_weights_is_told(path, container):
    top = {
        "epoch": 3,
        "optimizer": optimizer_state(),
        "optimizers": [optimizer_state()],
        "arguments": argparse.Namespace(lr=1),
        "history": [1.0],
        "best": torch.ones(2),
        "model": {"state_dict": weights(), "depth": 2},
        "none": None,
    }
    container(top, path)
    assert read(path).left_out == {
        "epoch": "int",
        "optimizer": "optimizer state, 128 bytes",
        "optimizers": "optimizer state, 128 bytes",
        "arguments": "Namespace",
        "history": "list",
        "best": "tensor",
        "model.depth": "int",
        "none": "None",
    }


def test_several_models_are_told_and_chosen_from(path, container):
    generator, discriminator = weights(1), weights(2)
    container({"netG": generator, "netD": discriminator, "optimizerG": optimizer_state()}, path)
    require_refused(path, "'netG' (3 tensors)", "'netD' (3 tensors)", "--key")
    file = read(path, key="netD")
    assert same(values(file), discriminator)
    assert file.key == ("netD",)
    assert set(file.left_out) == {"netG", "optimizerG"}


def test_the_same_state_dict_under_two_names_is_two_models(path, container):
    shared = weights()
    container({"generator": shared, "discriminator": shared}, path)
    require_refused(path, "'generator'", "'discriminator'")


def square(*names: str, side: int = 64) -> dict[str, torch.Tensor]:
    return {name: torch.randn(side, side) for name in names}


BESIDE_A_KNOWN_KEY = {
    "replay buffer": ("model_state_dict", {"epoch": 5, "obs": torch.ones(99, 99), "act": torch.ones(9)}),
    "centroids": ("state_dict", {"centroids": torch.ones(99, 99)}),
    "several": ("model_state", square("ema_a", "b", "c", "d")),
    "as of a module": ("net", {"0.weight": torch.ones(9, 9), "0.bias": torch.ones(9)}),
}


@pytest.mark.parametrize("case", BESIDE_A_KNOWN_KEY)
def test_a_known_key_goes_before_tensors_beside_it(path, container, case):
    key, beside = BESIDE_A_KNOWN_KEY[case]
    container({key: weights(), **beside}, path)
    file = read(path)
    assert same(values(file), weights())
    assert file.key == (key,)
    assert set(file.left_out) == set(beside)


def test_a_known_key_further_in_goes_before_tensors_beside_it(path, container):
    container({"model": {"state_dict": weights(), "depth": 2}, "queue": torch.ones(99, 99)}, path)
    assert read(path).key == ("model", "state_dict")


def test_tensors_and_dicts_of_as_many_bytes_are_several_models(path, container):
    container({"w": torch.ones(64, 64), "meta": square("x", "y")}, path)
    require_refused(path, "'.' (1 tensor at the top), 'meta' (2 tensors)", "--key")
    top = read(path, key=".")
    assert same(values(top), {"w": torch.ones(64, 64)})
    assert top.key == ()
    assert set(top.left_out) == {"meta"}
    assert set(values(read(path, key="meta"))) == {"x", "y"}
    assert set(values(read(path, keep_all=True))) == {"w", "meta.x", "meta.y"}
    container({"state_dict": {"w": torch.ones(64, 64), "history": [torch.ones(64, 64)]}}, path)
    require_refused(path, "'state_dict' (1 tensor)", "'state_dict.history' (1 tensor)")
    container({"g": weights(), "big": torch.ones(9, 9), "x": torch.ones(3)}, path)
    require_refused(path, "'.' (2 tensors at the top)", "'g' (3 tensors)")
    container({"a": 1, "model": weights()}, path)
    require_refused(path, "no tensors under '.'", key=".")


CLEAR = {
    "small extra state": {**square("0.weight"), "0.bias": torch.ones(64), "stats": {"mean": torch.ones(64)}},
    "small list": {**square("w"), "history": [torch.ones(64), torch.ones(64)]},
    "optimizer": {**square("w"), "optimizer": optimizer_state(), "opt": square("x")},
    "average": {**square("w"), "ema": square("w", "n")},
    "hyper-parameters in tensors": {**square("0.weight", "2.weight"), "params": {"lr": torch.ones(1)}},
}


@pytest.mark.parametrize("case", CLEAR)
def test_a_state_dict_is_not_mistaken_for_what_lies_in_it(path, container, case):
    top = CLEAR[case]
    container(top, path)
    file = read(path)
    assert same(values(file), {name: value for name, value in top.items() if isinstance(value, torch.Tensor)})
    assert file.key == ()
    assert set(file.left_out) == top.keys() - values(file).keys()


def test_a_few_numbers_in_tensors_are_no_model(path, container):
    container({"my_net": weights(), "mean": torch.ones(3), "std": torch.ones(3)}, path)
    assert read(path).key == ("my_net",)


def test_a_key_takes_all_that_is_under_it_if_it_is_not_clear(path, container):
    container({"model": {"encoder": weights(), "position": torch.ones(9)}, "step": 1}, path)
    assert len(values(read(path, key="model"))) == 4


def test_keys_are_dotted_and_may_hold_dots(path, container):
    container({"a.b": {"c": weights(1)}, "a": {"b": {"c": {"d": weights(2)}}}, 3: [weights(3)]}, path)
    assert same(values(read(path, key="a.b.c")), weights(1))
    assert same(values(read(path, key="a.b.c.d")), weights(2))
    assert same(values(read(path, key="3.0")), weights(3))
    require_refused(path, "'a.b'", "'a'", "'3'", key="x")
    require_refused(path, "nothing under 'a.b.c.x'", key="a.b.c.x")


def test_a_key_without_tensors_is_refused(path, container):
    container({"model": weights(), "config": {"a": 1}}, path)
    require_refused(path, "no tensors under 'config'", key="config")


def test_state_dicts_under_a_known_key_are_one(path, container):
    container({"model": {"encoder": weights(1), "decoder": weights(2)}, "step": 1}, path)
    file = read(path)
    expected = {f"encoder.{name}": tensor for name, tensor in weights(1).items()}
    expected |= {f"decoder.{name}": tensor for name, tensor in weights(2).items()}
    assert same(values(file), expected)
    assert file.key == ("model",)
    assert file.parts == ("encoder", "decoder")
    assert torch_state.TOGETHER in file.notes
    assert file.left_out == {"step": "int"}


def test_names_that_may_belong_to_two_of_them_are_told(path, container):
    container({"model": {"a": {"b.w": torch.ones(8), "c": torch.ones(8)}, "a.b": weights(2)}}, path)
    file = read(path)
    assert file.parts == ()
    assert torch_state.JOINED in file.notes


@pytest.mark.parametrize("key", [None, "model"])
def test_dicts_of_any_depth_under_a_known_key_are_one(path, container, key):
    held = {
        "head": weights(1),
        "backbone": {"stage1": weights(2), "a.b": {"c": weights(3)}},
        "opt_head": weights(4),
        "scaler": {"mean": torch.ones(8)},
    }
    container({"model": {**held, "aux": {}, "version": 3, "ema": None}, "rng": [1]}, path)
    file = read(path, key=key)
    assert file.parts == ("head", "backbone\tstage1", "backbone\ta.b\tc", "opt_head", "scaler")
    assert len(values(file)) == 4 * len(weights()) + 1
    assert "backbone.a.b.c." in " ".join(values(file))
    assert {"aux", "version", "ema"} <= set(file.left_out)
    assert same(values(file), dict(dotted(held)))


def dotted(held, before=""):
    for name, value in held.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{before}{name}.")
        else:
            yield before + name, value


def test_what_is_no_part_of_a_model_is_left_out_of_its_parts(path, container):
    optimizer = {"state": {0: {"exp_avg": torch.ones(8)}}, "param_groups": [{"lr": 0.1}]}
    others = {"optim": optimizer, "optimizer": {"moments": weights(3)}, "rng_state": {"cpu": torch.ones(8)}}
    container({"model": {"encoder": weights(1), "decoder": weights(2), **others}}, path)
    file = read(path)
    assert file.parts == ("encoder", "decoder")
    assert set(file.left_out) == set(others)


def test_models_under_a_known_key_are_no_parts(path, container):
    container({"model": {"state_dict": weights(1), "ema": weights(2)}}, path)
    file = read(path)
    assert same(values(file), weights(1))
    assert file.key == ("model", "state_dict")


def test_an_average_of_parts_is_told_by_the_key_of_all(path, container):
    container({"model": {"a": weights(1), "b": weights(2)}, "ema": {"a": weights(3), "b": weights(4)}}, path)
    file = read(path)
    assert file.parts == ("a", "b")
    (note,) = [note for note in file.notes if "average" in note]
    assert note.endswith("--key ema takes that one")
    assert len(values(read(path, key="ema"))) == 2 * len(weights())


def test_tensors_that_would_have_the_same_name_are_told(path, container):
    container({"model": {"a": {"b.w": torch.ones(8)}, "a.b": {"w": torch.ones(8)}}}, path)
    require_refused(path, "'a.b.w'", "--key", "--lossless")


def test_an_average_stands_back_and_is_told(path, container):
    container({"state_dict": weights(1), "state_dict_ema": weights(2), "model_ema": weights(3)}, path)
    file = read(path)
    assert same(values(file), weights(1))
    assert any("--key state_dict_ema" in note for note in file.notes)
    assert any("--key model_ema" in note for note in file.notes)
    assert same(values(read(path, key="state_dict_ema")), weights(2))


def test_lists_and_numbers_name_tensors_by_position(path, container):
    tensors = list(weights().values())
    for top in (tensors, tuple(tensors), dict(enumerate(tensors))):
        container(top, path)
        assert same(values(read(path)), {str(position): tensor for position, tensor in enumerate(tensors)})
    container(tensors[0], path)
    assert same(values(read(path)), {"0": tensors[0]})


def test_a_number_and_its_digits_are_two_names(path, container):
    container({0: torch.ones(1), "0": torch.zeros(1)}, path)
    assert sorted(tensor.item() for tensor in values(read(path)).values()) == [0, 1]


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict(), ["optimizer"]),
        (optimizer_state(), ["optimizer"]),
        ({"optimizer": optimizer_state(), "step": 1}, ["optimizer"]),
        ({"state_dict": {}}, ["no tensors", "dict"]),
        (argparse.Namespace(lr=1), ["no tensors", "Namespace"]),
        (5, ["no tensors", "int"]),
        ([("a", torch.ones(2))], ["without names"]),
    ],
)
def test_files_without_weights_are_told(path, container, top, words):
    container(top, path)
    require_refused(path, *words)


def test_values_that_are_no_tensors_are_told(path, container):
    state = {**weights(), "0._extra_state": {"scale": torch.ones(2)}, "step": 7, "ema": None, "about": "text"}
    container({"state_dict": state, "step": 3}, path)
    file = read(path)
    assert same(values(file), weights())
    assert file.left_out == {
        "step": "int",
        "0._extra_state": "not a tensor but dict with 1 tensor, 8 bytes",
        "state_dict.step": "not a tensor but int",
        "ema": "not a tensor but None",
        "about": "not a tensor but str",
    }


# Names


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_prefixes_of_wrappers_are_left_out(path, container, prefix):
    container({"state_dict": {prefix + name: tensor for name, tensor in weights().items()}}, path)
    file = read(path)
    assert same(values(file), weights())
    assert file.prefix == prefix
    assert f"names begin with '{prefix}' in the file; it is left out here" in file.notes


def test_an_averaged_model_has_a_counter(path, container):
    module = nn.Linear(3, 2)
    container(torch.optim.swa_utils.AveragedModel(module).state_dict(), path)
    file = read(path)
    assert same(values(file), module.state_dict())
    assert set(file.left_out) == {"n_averaged"}


def test_prefixes_of_some_names_stay(path, container):
    state = {"module.a": torch.ones(1), "b": torch.ones(2)}
    container(state, path)
    assert same(values(read(path)), state)
    state = {"model.a": torch.ones(1), "model.b": torch.ones(2)}
    container(state, path)
    assert same(values(read(path)), state)
    assert read(path).prefix == ""


def test_names_of_wrappers_within_are_left_out(path, container):
    names = [
        "a._checkpoint_wrapped_module.w",
        "b._fsdp_wrapped_module._checkpoint_wrapped_module.w",
        "c._orig_mod.w",
        "d.w",
    ]
    container({name: torch.ones(position) for position, name in enumerate(names)}, path)
    file = read(path)
    assert [tensor.name for tensor in file.tensors] == ["a.w", "b.w", "c.w", "d.w"]
    assert "'_checkpoint_wrapped_module.' is left out of 2 names" in file.notes
    container({"a._orig_mod.w": torch.ones(1), "a.w": torch.ones(2)}, path)
    assert {tensor.name for tensor in read(path).tensors} == {"a._orig_mod.w", "a.w"}


def test_names_that_are_no_text_are_refused(path, container):
    container({"a\ud800": torch.ones(1)}, path)
    require_refused(path, "not valid text")


# Whole modules


@pytest.mark.parametrize("wrap", [lambda module: module, lambda module: {"epoch": 1, "model": module, "ema": None}])
def test_weights_of_a_whole_module_are_those_of_its_state_dict(path, container, monkeypatch, wrap):
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        container(wrap(module), path)
    monkeypatch.delattr(f"{__name__}.Net", raising=False)
    file = read(path)
    assert same(values(file), module.state_dict())
    assert file.ties["encoder.0.weight"] == "again.0.weight"
    assert "holds a whole module; its weights are taken, its code is not run" in file.notes


# Types that no file can hold


UNSTORABLE = {
    "to_dense()": lambda: torch.eye(4).to_sparse(),
    "sparse_csr": lambda: torch.eye(4).to_sparse_csr(),
    "meta": lambda: torch.empty(3, device="meta"),
    "quint8": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "float8_e4m3fnuz": lambda: torch.ones(3).to(torch.float8_e4m3fnuz),
    "complex32": lambda: torch.ones(3, dtype=torch.complex32),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("word", UNSTORABLE)
def test_tensors_that_no_file_can_hold_are_refused(path, word):
    torch.save({"v": torch.ones(4), "weird": UNSTORABLE[word]()}, path)
    require_refused(path, "'weird'", word)
    file = read(path, keep_all=True)
    assert set(values(file)) == {"v"}
    assert "weird" in file.left_out


def test_marked_views_are_what_they_mean(path):
    complex_ = torch.randn(4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    state = {"conjugate": complex_.conj(), "negative": complex_.clone().conj().imag, "plain": complex_}
    torch.save(state, path)
    file = read(path)
    found = values(file)
    assert not file.ties
    for name, tensor in state.items():
        assert np.array_equal(found[name], tensor.resolve_conj().resolve_neg().numpy())
    assert read(path, keep_all=True).left_out["conjugate"] == "a conjugate or negative view"


@pytest.mark.filterwarnings("ignore")
def test_weights_of_quantised_modules_are_refused(path):
    module = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.qint8)
    torch.save(module.state_dict(), path)
    require_refused(path, "quantised", "qint8")
    torch.save({**module.state_dict(), "a": torch.ones(3), "b": torch.ones(3), "c": torch.ones(3)}, path)
    require_refused(path, "quantised", "qint8")
    torch.jit.script(module).save(path)
    require_refused(path, "float model")


# All else kept


def test_all_else_is_kept_around_the_tensors(path, tmp_path, container):
    top = {
        "state_dict": {f"module.{name}": tensor for name, tensor in weights().items()},
        "optimizer": optimizer_state(),
        "epoch": 3,
        "0.weight": torch.ones(5),
        "transposed": torch.ones(2, 3).t(),
        "every second": torch.ones(9)[::2],
        "seen": weights()["0.bias"],
    }
    container(top, path)
    file = read(path, keep_all=True)
    assert not file.is_state_dict
    assert file.left_out == {"every second": "not contiguous"}
    assert file.reordered == {}
    assert set(file.reasons) == {
        "beside:transposed",
        *(f"beside:optimizer.state.{n}.{part}" for n in (0, 1) for part in ("step", "exp_avg", "exp_avg_sq")),
        "beside:0.weight",
        "beside:seen",
    }
    assert set(file.reasons.values()) == {"not one of the weights"}
    found = values(file)
    assert same({name: tensor for name, tensor in found.items() if name not in file.reasons}, weights())
    assert torch.equal(found["beside:optimizer.state.1.exp_avg"], top["optimizer"]["state"][1]["exp_avg"])
    changed = overwritten(file, tmp_path / "changed.pt")
    again = torch.load(tmp_path / "changed.pt", weights_only=True)
    assert torch.equal(again["state_dict"]["module.0.weight"], changed["0.weight"])
    assert not torch.equal(changed["0.weight"], weights()["0.weight"])
    assert again["epoch"] == 3
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(tmp_path / "changed.pt") as archive:
            assert archive.testzip() is None


def test_weights_in_the_order_of_other_dimensions_are_taken_where_they_lie(path, tmp_path, container):
    last = torch.randn(4, 3, 2, 5).to(memory_format=torch.channels_last)
    top = {"state_dict": {"c.weight": last, "d.weight": torch.randn(3, 8).t(), "d.bias": torch.ones(8)}}
    top["state_dict"]["tied.weight"] = top["state_dict"]["d.weight"]
    container(top, path)
    file = read(path, keep_all=True)
    assert file.left_out == file.reasons == {}
    assert file.ties == {"beside:tied.weight": "beside:d.weight"}
    assert {tensor.name: tensor.shape for tensor in file.tensors} == {
        "beside:c.weight": (4, 2, 5, 3),
        "beside:d.weight": (3, 8),
        "d.bias": (8,),
    }
    assert file.reordered == {
        "beside:c.weight": (0, 2, 3, 1),
        "beside:d.weight": (1, 0),
        "beside:tied.weight": (1, 0),
    }
    changed = overwritten(file, tmp_path / "changed.pt")
    again = torch.load(tmp_path / "changed.pt", weights_only=True)["state_dict"]
    assert again["c.weight"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(again["c.weight"], changed["beside:c.weight"].permute(0, 3, 1, 2))
    assert torch.equal(again["d.weight"], changed["beside:d.weight"].t())


def test_a_tensor_and_its_transpose_are_tied(path, container):
    one = torch.randn(4, 6)
    container({"a.weight": one.t(), "b.weight": one, "beside:a.weight": torch.ones(3), "c": one.view(6, 4).t()}, path)
    file = read(path, keep_all=True)
    assert {tensor.name for tensor in file.tensors} == {"b.weight", "beside:a.weight"}
    assert file.ties == {"beside:a.weight'": "b.weight"}
    assert file.left_out == {"c": "overlaps 'b.weight'"}
    assert file.reordered == {"beside:a.weight'": (1, 0)}


def test_of_overlapping_tensors_the_largest_is_kept(path, container):
    flat = torch.randn(100)
    container(
        {"a": flat[10:20], "b": flat[:60], "c": flat[50:90], "d": flat[60:70], "e": flat[90:], "f": flat[:60]}, path
    )
    file = read(path, keep_all=True)
    assert {tensor.name for tensor in file.tensors} == {"b", "d", "e"}
    assert file.ties == {"f": "b"}
    assert file.left_out == {"a": "overlaps 'b'", "c": "overlaps 'b'"}
    found = ranges(file)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(found))


def test_a_weight_that_is_tied_to_something_else_is_one_of_the_weights(path, container):
    shared = torch.randn(4)
    container({"state_dict": {"w": shared, "v": torch.ones(4)}, "a": {"w": shared[:]}, "b": torch.ones(3)}, path)
    file = read(path, keep_all=True)
    assert file.ties == {"w": "beside:a.w"}
    assert set(file.reasons) == {"beside:b"}


def test_keeping_all_needs_no_choice(path, container):
    container({"netG": weights(1), "netD": weights(2), "optimizer": optimizer_state()}, path)
    file = read(path, keep_all=True)
    assert not any("net" in name for name in file.reasons)
    assert torch.equal(values(file)["netD.0.weight"], weights(2)["0.weight"])
    assert {name for name in read(path, key="netD", keep_all=True).reasons if "net" in name} == {
        f"beside:netG.{name}" for name in weights()
    }
    container(optimizer_state(), path)
    file = read(path, keep_all=True)
    assert len(file.reasons) == len(file.tensors) == 6
    assert not any(name.startswith("beside:") for name in file.reasons)


def test_arrays_are_taken_without_keeping_all(path):
    torch.save({"params": {"w": np.ones((8, 8), "f4"), "g": np.ones(8, "f4")}, "it": np.int64(3)}, path)
    require_refused(path, "numpy arrays", "without --keep-all", keep_all=True)
    assert set(values(read(path))) == {"w", "g"}


def test_checksums_that_were_not_computed_stay_so(path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    file = read(path, keep_all=True)
    assert len(file.tensors) == 3
    assert file.checksums == {path: ()}


# Programs


class Scripted(nn.Module):
    """A module for TorchScript with tensors in many places."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.again = self.body
        self.head = nn.Linear(4, 2)
        self.offset = torch.ones(2)
        self.parts = [torch.zeros(3), torch.ones(4)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(x).mean((2, 3))) + self.offset + self.parts[0].sum() + torch.full((2,), 3.0)


def accepts(path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.filterwarnings("ignore")
def test_a_program_with_channels_last_gives_its_weights_as_they_are(path):
    module = Scripted().eval().to(memory_format=torch.channels_last)
    torch.jit.script(module).save(path)
    file = read(path)
    assert set(file.reordered) == {"beside:body.0.weight", "beside:again.0.weight"}
    assert file.left_out == {}
    found = checkpoint.read(path)
    assert same({name: found[name] for name in module.state_dict()}, module.state_dict())


@pytest.mark.parametrize("kind", ["script", "trace", "mobile"])
def test_torchscript(path, tmp_path, kind):
    module = Scripted().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(module, torch.ones(1, 3, 5, 5)) if kind == "trace" else torch.jit.script(module)
        if kind == "mobile":
            program._save_for_lite_interpreter(str(path))
        else:
            program.save(path)
        file = read(path)
        found = {name: tensor for name, tensor in values(file).items() if name not in file.reasons}
        attributes = found.keys() - program.state_dict().keys()
        assert attributes <= {"offset", "parts.0", "parts.1"}
        assert same({name: found[name] for name in program.state_dict()}, program.state_dict())
        changed = overwritten(file, tmp_path / "changed.pt")
        accepts(tmp_path / "changed.pt")
        again = torch.jit.load(tmp_path / "changed.pt").state_dict()
    assert not file.is_state_dict
    assert same(again, {name: changed[name] for name in again})
    assert not torch.equal(again["head.weight"], program.state_dict()["head.weight"])
    require_refused(path, "--key model", key="model")


def test_a_frozen_program_has_its_weights_in_constants(path, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(4, 3)).eval()))
        program.save(path)
        file = read(path)
        overwritten(file, tmp_path / "changed.pt")
        accepts(tmp_path / "changed.pt")
        again = torch.jit.load(tmp_path / "changed.pt")
        assert not torch.equal(again(torch.ones(1, 4)), program(torch.ones(1, 4)))
    assert {tensor.shape for tensor in file.tensors} == {(3, 4), (3,)}
    assert file.reasons == {}


class Exported(nn.Module):
    """A module for torch.export with tied weights and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.tail = nn.Linear(4, 4)
        self.tail.weight = self.head.weight
        self.register_buffer("mask", torch.ones(4, 4)[:, :2])
        self.register_buffer("turned", torch.randn(2, 4).t())
        self.offset = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.head(x)) @ (self.mask + self.turned) + self.offset[:2]


@pytest.mark.filterwarnings("ignore")
def test_exported_programs(path, tmp_path):
    path = tmp_path / "model.pt2"
    module = Exported()
    torch.export.save(torch.export.export(module, (torch.ones(1, 4),)), path)
    file = read(path)
    names = {"head.weight", "head.bias", "tail.bias", "tail.weight"}
    expected = {name: tensor for name, tensor in module.state_dict().items() if name in names}
    assert same(values(file), {**expected, "beside:turned": module.turned.t()})
    assert same(checkpoint.read(path), {**expected, "turned": module.turned})
    assert file.left_out == {"mask": "not contiguous"}
    assert not file.is_state_dict
    changed = overwritten(file, tmp_path / "changed.pt2")
    accepts(tmp_path / "changed.pt2")
    again = torch.export.load(tmp_path / "changed.pt2").state_dict
    turned = changed.pop("beside:turned").t()
    assert same({name: again[name] for name in (*names, "turned")}, {**changed, "turned": turned})
    require_refused(path, "--key model", key="model")


@pytest.mark.filterwarnings("ignore")
def test_exported_programs_before_2_8(tmp_path):
    from torch._export.serde.schema import SCHEMA_VERSION
    from torch._export.serde.serialize import serialize

    path = tmp_path / "model.pt2"
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    artifact = serialize(torch.export.export(module, (torch.ones(2, 4),)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr("serialized_state_dict.pt", artifact.state_dict)
        archive.writestr("serialized_constants.pt", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
        archive.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
    file = read(path)
    assert same(values(file), module.state_dict())
    changed = overwritten(file, tmp_path / "changed.pt2")
    accepts(tmp_path / "changed.pt2")
    assert same(torch.export.load(tmp_path / "changed.pt2").state_dict, changed)


# What is none of it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no pickle at all", ["no model file"]),
        (b"\x80\x02}", ["cut short or damaged"]),
        (tar("sys_info", "pickle", "tensors", "storages"), ["0.1.10"]),
        (tar("model_config.yaml", "model_weights.ckpt"), ["a tar archive; unpack it first"]),
        (b"x" * 257 + b"ustar" + b"\0" * 300, ["a tar archive; unpack it first"]),
        (b"", ["no model file"]),
        (pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1002) + pickle.dumps({}), ["version"]),
    ],
)
def test_other_files_are_refused(path, content, words):
    path.write_bytes(content)
    require_refused(path, *words)


def test_other_archives_are_refused(path):
    for name, words in (("model.json", ["TorchScript"]), ("other.txt", ["none of PyTorch"])):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"model/{name}", b"{}")
        require_refused(path, *words)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive_format", b"pt2")
        archive.writestr("data/aotinductor/model/model.so", b"")
    require_refused(path, "compiled")
    require_refused(path.parent / "missing.pt", "check the path")


# Hostile files


class Shell:
    """What whoever loads it executes."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_nothing_is_executed(path, tmp_path, save):
    trace = tmp_path / "trace"
    save({"state_dict": weights(), "other": Shell(f"touch {trace}")}, path)
    assert same(values(read(path)), weights())
    assert not trace.exists()


def archive_of(path, data: bytes, **records: bytes) -> None:
    """Writes an archive with a pickle and storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        for key, content in records.items():
            archive.writestr(f"a/data/{key[1:]}", content)


def tensor_pickle(offset=b"K\x00", shape=b"K\x02\x85", strides=b"K\x01\x85", count=b"K\x02") -> bytes:
    """A pickle of a state dict with one tensor."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89}tR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."


def test_the_pickle_of_the_tests_is_one(path):
    archive_of(path, tensor_pickle(), _0=struct.pack("<2f", 1, 2))
    assert same(values(read(path)), {"w": torch.tensor([1.0, 2.0])})


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": b"K\x03\x85"},
        {"shape": b"J\xff\xff\xff\xff\x85"},
        {"shape": b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x10\x85"},
        {"shape": b"(" + b"K\x01" * 100 + b"t", "strides": b"(" + b"K\x01" * 100 + b"t"},
        {
            "shape": b"(" + b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10" * 20 + b"t",
            "strides": b"(" + b"K\x00" * 20 + b"t",
        },
        {"shape": b"G\x3f\xf0\x00\x00\x00\x00\x00\x00\x85"},
        {"shape": b"X\x01\x00\x00\x002\x85"},
        {"shape": b"N"},
        {"offset": b"J\xff\xff\xff\xff"},
        {"offset": b"K\x01"},
        {"offset": b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x10"},
        {"strides": b"J\xff\xff\xff\xff\x85"},
        {"strides": b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x20\x85"},
        {"strides": b"K\x01K\x01\x86"},
        {"strides": b")"},
        {"shape": b"N" + b"\x85" * 5000},
    ],
)
def test_tensors_beyond_their_storage_are_damaged(path, changes):
    archive_of(path, tensor_pickle(**changes), _0=struct.pack("<2f", 1, 2))
    require_refused(path, "cut short or damaged")


def test_a_damaged_pickle_is_told_by_its_checksum(path):
    torch.save(weights(), path)
    path.write_bytes(path.read_bytes().replace(b"0.weight", b"0.weighs"))
    require_refused(path, "checksum", "'data.pkl'")


def test_missing_storages_are_damaged(path):
    archive_of(path, tensor_pickle(), _1=b"")
    require_refused(path, "'data/0'", "missing")


@pytest.mark.parametrize("kind", [*CONTAINERS, "script", "exported", "pickle"])
def test_every_cut_is_told(path, tmp_path, kind):
    whole = saved(kind, tmp_path)
    size = whole.stat().st_size
    stops = {0, 1, 2, 4, 8, size - 1, size - 2, size - 22, size // 2}
    for start, stop in ranges(read(whole)):
        stops |= {start - 1, start, start + 1, stop - 1, stop, stop + 1}
    if zipfile.is_zipfile(whole):
        with zipfile.ZipFile(whole) as archive:
            stops |= {info.header_offset + shift for info in archive.infolist() for shift in (0, 1, 30)}
    data = whole.read_bytes()
    for stop in sorted(stops):
        if stop < size:
            path.write_bytes(data[:stop])
            require_refused(path)


def saved(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """A small file of one of the kinds."""
    path = folder / "whole.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "script":
            torch.jit.script(nn.Linear(4, 3)).save(path)
        elif kind == "exported":
            path = folder / "whole.pt2"
            torch.export.save(torch.export.export(nn.Linear(4, 3), (torch.ones(1, 4),)), path)
        else:
            # Without checksums, which would tell most changes at once.
            torch.serialization.set_crc32_options(False)
            SAVES[kind]({"state_dict": weights(), "optimizer": optimizer_state(), "module": nn.Linear(2, 2)}, path)
            torch.serialization.set_crc32_options(True)
    return path


@pytest.mark.parametrize("kind", [*SAVES, "script", "exported"])
def test_flipped_bits_give_a_file_or_the_error(path, tmp_path, kind):
    good = saved(kind, tmp_path).read_bytes()
    generator = random.Random(0)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(generator.choice([1, 1, 2, 8])):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        with suppress(FormatError):
            for keep_all in (False, True):
                file = read(path, keep_all=keep_all)
                values(file)
                assert all(stop <= len(data) for _, stop in ranges(file))


def test_archives_that_two_readers_take_for_two_are_refused(path):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a/data.pkl", tensor_pickle())
        archive.writestr("a/data.pkl", tensor_pickle())
    require_refused(path, "twice")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", tensor_pickle())
        archive.writestr("data.pkl", tensor_pickle())
    require_refused(path, "two folders")


def test_encrypted_archives_are_refused(path):
    archive_of(path, tensor_pickle(), _0=struct.pack("<2f", 1, 2))
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    require_refused(path, "encrypted")


def test_archives_that_unpack_to_far_more_are_refused(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", tensor_pickle())
        archive.writestr("a/data/0", bytes(80_000_000))
    require_refused(path, "100 times")


def nested(depth: int) -> bytes:
    return b"}X\x01\x00\x00\x00m" * depth + b"N" + b"s" * depth


@pytest.mark.parametrize("beside", [nested(100_000), b"]" * 100_000 + b"N" + b"a" * 100_000, b"N" + b"\x85" * 100_000])
@pytest.mark.parametrize("keep_all", [False, True])
def test_values_that_nest_too_deeply_are_refused(path, beside, keep_all):
    archive_of(path, tensor_pickle()[:-1] + b"X\x01\x00\x00\x00x" + beside + b"s.", _0=struct.pack("<2f", 1, 2))
    require_refused(path, "nest", keep_all=keep_all)


def doubled(opening: bytes, twice: bytes, times: int) -> bytes:
    return opening + (b"q\x00" + twice) * times


@pytest.mark.parametrize(
    "bomb",
    [
        doubled(b"]", b"h\x00\x86", 200),
        doubled(b"]", b"0](h\x00h\x00e", 200),
        doubled(b"}", b"0}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u", 200),
        doubled(b"cm\nC\n)R", b"0cm\nC\n)R}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00ub", 200),
    ],
)
def test_values_that_are_within_many_others_are_passed_once(path, bomb):
    archive_of(path, tensor_pickle()[:-1] + b"X\x01\x00\x00\x00x" + bomb + b"s.", _0=struct.pack("<2f", 1, 2))
    assert set(values(read(path))) == {"w"}
    assert set(values(read(path, keep_all=True))) == {"w"}


def test_modules_that_are_within_many_others_are_too_many(path, monkeypatch):
    def module(children: bytes) -> bytes:
        parts = b"X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_modules}(" + children + b"u"
        return b"cm\nC\n)R}(" + parts + b"ub"

    data = module(b"")
    for _ in range(60):
        data += b"q\x000" + module(b"X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00")
    archive_of(path, b"\x80\x02" + data + b".")
    monkeypatch.setattr(torch_state, "MOST_VISITED", 10_000)
    require_refused(path, "nest")


def test_an_object_that_refers_to_itself(path, container):
    top = {"state_dict": weights(), "trainer": types.SimpleNamespace()}
    top["trainer"].checkpoint = top
    top["list"] = [top]
    container(top, path)
    assert same(values(read(path)), weights())
    assert set(weights()) <= set(values(read(path, keep_all=True)))


def test_what_holds_very_many_values_is_data(path, container):
    container({"state_dict": weights(), "vocabulary": {str(i): {"a": torch.ones(90)} for i in range(1200)}}, path)
    assert same(values(read(path)), weights())


def test_tables_of_exported_programs_are_checked(tmp_path):
    path = tmp_path / "model.pt2"

    def table(**changes) -> bytes:
        import json

        meta = {
            "dtype": 7,
            "layout": 7,
            "sizes": [{"as_int": 2}],
            "strides": [{"as_int": 1}],
            "storage_offset": {"as_int": 0},
        }
        entry = {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {**meta, **changes}}
        return json.dumps({"config": {"w": entry}}).encode()

    tables = {
        "good": table(),
        "long": table(sizes=[{"as_int": 3}]),
        "negative": table(storage_offset={"as_int": -1}),
        "float": table(sizes=[1.5]),
        "symbol": table(sizes=[{"as_name": "s0"}]),
        "no dict": b"[]",
        "deep": b"[" * 100_000,
        "no json": b"\xff",
    }
    for name, content in tables.items():
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/archive_format", b"pt2")
            archive.writestr("m/models/model.json", b"{}")
            archive.writestr("m/data/weights/model_weights_config.json", content)
            archive.writestr("m/data/weights/weight_0", struct.pack("<2f", 1, 2))
        if name == "good":
            assert same(values(read(path)), {"w": torch.tensor([1.0, 2.0])})
        else:
            require_refused(path, "damaged")


@pytest.mark.slow
def test_many_tensors(path, container):
    flat = torch.arange(80_000.0)
    state = {f"layers.{i // 10}.{i % 10}.weight": flat[4 * i : 4 * i + 4].clone() for i in range(20_000)}
    container(state, path)
    found = values(read(path))
    assert torch.equal(torch.cat([found[name] for name in state]), flat)
