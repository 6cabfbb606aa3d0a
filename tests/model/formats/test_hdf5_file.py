import io
import zipfile
from contextlib import suppress
from struct import pack

import h5py
import numpy as np
import pytest

from metaq.errors import FormatError
from metaq.model.formats import hdf5_file, hdf5_objects
from metaq.tensors.quantized import Dtype


def layers():
    """Variables as Keras 3 keeps them."""
    random = np.random.default_rng(0)
    shapes = {
        "layers/conv2d/vars/0": (3, 3, 2, 4),
        "layers/conv2d/vars/1": (4,),
        "layers/batch_normalization/vars/0": (4,),
        "layers/batch_normalization/vars/1": (4,),
        "layers/batch_normalization/vars/2": (4,),
        "layers/batch_normalization/vars/3": (4,),
        "layers/batch_normalization_1/vars/0": (4,),
        "layers/batch_normalization_1/vars/1": (4,),
        "layers/batch_normalization_1/vars/2": (4,),
        "stem/vars/0": (4,),
        "stem/vars/1": (4,),
        "stem/vars/2": (4,),
        "stem/vars/3": (4,),
    }
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


STATISTICS = {
    "layers/batch_normalization/vars/2",
    "layers/batch_normalization/vars/3",
    "layers/batch_normalization_1/vars/1",
    "layers/batch_normalization_1/vars/2",
    "stem/vars/2",
    "stem/vars/3",
}


def write(path, arrays, **options):
    with h5py.File(path, "w", **options) as file:
        for name, array in arrays.items():
            file[name] = array


def check_elements(file, elements, expected):
    found = elements(file)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("libver", [None, "earliest", "latest", "v110"])
def test_datasets_are_read_where_they_lie(tmp_path, elements, libver):
    path = tmp_path / "m.weights.h5"
    write(path, layers(), libver=libver)
    assert hdf5_file.recognises(path, path.read_bytes()[:16])
    file = hdf5_file.read(path)
    check_elements(file, elements, layers())
    assert not file.left_out
    assert not file.is_state_dict


def test_running_statistics_of_keras_are_kept(tmp_path):
    path = tmp_path / "m.weights.h5"
    write(path, layers())
    assert set(hdf5_file.read(path).reasons) == STATISTICS


def test_running_statistics_have_names_in_older_files(tmp_path):
    path = tmp_path / "m.h5"
    names = ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0", "moving_mean", "moving_means")
    write(path, {f"model_weights/norm/norm/{name}": np.ones(4, np.float32) for name in names})
    assert set(hdf5_file.read(path).reasons) == {
        "model_weights/norm/norm/moving_mean:0",
        "model_weights/norm/norm/moving_variance:0",
        "model_weights/norm/norm/moving_mean",
    }


def trained(group):
    """Variables of a layer and of its optimizer: the count of steps, the learning rate, and moments."""
    moments = {f"{group}/vars/{number}": np.full((3, 4), number, np.float32) for number in (2, 3)}
    numbers = {f"{group}/vars/0": np.int64(7), f"{group}/vars/1": np.float32(0.01)}
    return {"layers/optimizer/vars/0": np.ones((3, 4), np.float32)}, numbers, moments


@pytest.mark.parametrize("group", ["optimizer", "optimizer_weights"])
def test_the_state_of_an_optimizer_is_left_out(tmp_path, elements, group):
    path = tmp_path / "m.weights.h5"
    weights, numbers, moments = trained(group)
    write(path, weights | numbers | moments)
    file = hdf5_file.read(path)
    check_elements(file, elements, weights)
    assert not file.left_out
    assert file.reasons == {}
    (zeroed,) = file.zeroed
    assert zeroed.name == group
    assert zeroed.reason == "optimizer state, 96 bytes; zeros come back"
    content = path.read_bytes()
    assert sorted(content[start:stop] for start, stop in zeroed.ranges) == sorted(m.tobytes() for m in moments.values())


def test_the_state_of_an_optimizer_is_kept_exactly_with_all_else(tmp_path, elements):
    path = tmp_path / "m.weights.h5"
    weights, numbers, moments = trained("optimizer")
    write(path, weights | numbers | moments)
    file = hdf5_file.read(path, keep_all=True)
    beside = {f"beside:{name}": values for name, values in (numbers | moments).items()}
    check_elements(file, elements, weights | beside)
    assert file.reasons == dict.fromkeys(beside, "not one of the weights")
    assert not file.zeroed
    assert not file.left_out


def test_what_else_there_is_of_an_optimizer_stays_in_the_file(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["weight"] = np.ones(3)
        file.create_dataset("optimizer/chunked", (10,), "f4", chunks=(5,))
    file = hdf5_file.read(path)
    assert file.left_out == {"optimizer/chunked": "is in chunks"}
    assert not file.zeroed


def test_an_optimizer_that_shares_bytes_with_weights_is_refused(tmp_path):
    path = tmp_path / "m.h5"
    write(path, {"optimizer/v": np.ones(333), "w": np.ones(333)})
    with h5py.File(path) as file:
        places = [pack("<QQ", file[name].id.get_offset(), 333 * 8) for name in ("optimizer/v", "w")]
    path.write_bytes(path.read_bytes().replace(*places))
    with pytest.raises(FormatError, match="overlaps"):
        hdf5_file.read(path)


def test_h5py_reads_the_elements_that_a_file_is_filled_with(tmp_path, refilled):
    path = tmp_path / "m.h5"
    write(path, layers() | {"optimizer/vars/0": np.arange(3.0)})
    written = refilled(hdf5_file.read(path), tmp_path / "n.h5")
    assert set(written) == set(layers())
    with h5py.File(tmp_path / "n.h5") as found:
        for name, array in written.items():
            np.testing.assert_array_equal(found[name], array)
        assert found["optimizer/vars/0"].shape == (3,)


def keras_archive(path, compression=zipfile.ZIP_STORED):
    weights = io.BytesIO()
    write(weights, layers())
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", weights.getvalue())
        archive.writestr("metadata.json", "{}")


def test_weights_within_an_archive_of_keras_are_read_and_filled(tmp_path, elements, refilled):
    path = tmp_path / "m.keras"
    keras_archive(path)
    head = path.read_bytes()[:16]
    assert hdf5_file.recognises(path, head)
    assert hdf5_file.recognises(path.rename(tmp_path / "m.zip"), head)
    file = hdf5_file.read(tmp_path / "m.zip")
    check_elements(file, elements, layers())
    written = refilled(file, path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        with h5py.File(archive.open("model.weights.h5")) as found:
            for name, array in written.items():
                np.testing.assert_array_equal(found[name], array)


def test_compressed_archives_of_keras_are_refused_with_advice(tmp_path):
    path = tmp_path / "m.keras"
    keras_archive(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="save_weights"):
        hdf5_file.read(path)


def test_archives_without_weights_are_not_recognised(tmp_path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.h5", b"")
    assert not hdf5_file.recognises(path, path.read_bytes()[:16])
    with pytest.raises(FormatError, match=r"holds no model.weights.h5"):
        hdf5_file.read(path)


def test_all_types_that_a_tensor_can_have_are_read(tmp_path, elements):
    path = tmp_path / "m.h5"
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    arrays = {kind: np.arange(4).astype(kind).reshape(2, 2) for kind in kinds} | {"scalar": np.float32(3)}
    write(path, arrays)
    file = hdf5_file.read(path)
    check_elements(file, elements, arrays)
    assert {tensor.name: tensor.dtype.storage for tensor in file.tensors} == {
        name: array.dtype for name, array in arrays.items()
    }


def test_bfloat16_of_keras_is_read_and_other_opaque_types_are_not(tmp_path, elements):
    path = tmp_path / "m.h5"
    bits = np.arange(6, dtype=np.uint16).reshape(2, 3)
    with h5py.File(path, "w") as file:
        for name in ("weight", "opaque"):
            file[name] = bits.view("V2")
        file["weight"].attrs["other"] = 1
        file["weight"].attrs["dtype"] = "bfloat16"
    found = hdf5_file.read(path)
    assert found.tensors[0].dtype is Dtype.bfloat16
    check_elements(found, elements, {"weight": bits})
    assert set(found.left_out) == {"opaque"}


def test_datasets_that_do_not_lie_in_the_file_as_they_are_are_left_out(tmp_path, elements):
    path = tmp_path / "m.h5"
    (tmp_path / "outside").write_bytes(bytes(100))
    with h5py.File(path, "w") as file:
        file["weight"] = np.ones(3)
        file.create_dataset("chunked", (10,), "f4", chunks=(5,))
        file.create_dataset("compressed", (10,), "f4", chunks=(5,), compression="gzip")
        file.create_dataset("never written", (10,), "f4")
        file.create_dataset("none", data=h5py.Empty("f4"))
        file.create_dataset("no rows", (0, 4), "f4")
        file.create_dataset("outside", (10,), "f4", external=[(tmp_path / "outside", 0, 40)])
        file.create_dataset("big", data=np.ones(3, ">f4"))
        file.create_dataset("text", data="text")
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.COMPACT)
        file.create_dataset("compact", data=np.ones(3), dcpl=made)
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (3,))
        file.create_virtual_dataset("virtual", layout)
    file = hdf5_file.read(path)
    check_elements(file, elements, {"weight": np.ones(3)})
    assert file.left_out == {
        "chunked": "is in chunks",
        "compressed": "is compressed",
        "never written": "has no elements",
        "none": "has no elements",
        "no rows": "has no elements",
        "outside": "is in other places",
        "big": "is of another type than little-endian numbers",
        "text": "is of another type than little-endian numbers",
        "compact": "is compact",
        "virtual": "is in other places",
    }


def test_links_are_ties_within_a_file_and_not_followed_out_of_it(tmp_path, elements):
    path = tmp_path / "m.h5"
    write(tmp_path / "other.h5", {"x": np.ones(3)})
    with h5py.File(path, "w") as file:
        file["a/weight"] = np.ones(3)
        file["b/tied"] = file["a/weight"]
        file["b/again"] = file["a"]
        file["a/up"] = file["/"]
        file["soft"] = h5py.SoftLink("/a/weight")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
    file = hdf5_file.read(path)
    check_elements(file, elements, {"a/weight": np.ones(3)})
    assert file.ties == {"b/tied": "a/weight"}
    assert file.left_out == {"outside": "is a link", "soft": "is a link"}


def test_large_groups_are_read(tmp_path, elements):
    path = tmp_path / "m.h5"
    arrays = {f"layer{i}/vars/0": np.full(2, i, np.float32) for i in range(1000)}
    write(path, arrays)
    check_elements(hdf5_file.read(path), elements, arrays)


def test_large_groups_of_the_newer_way_are_refused_with_advice(tmp_path):
    path = tmp_path / "m.h5"
    write(path, {f"layer{i}/vars/0": np.ones(2, np.float32) for i in range(20)}, libver="latest")
    with pytest.raises(FormatError, match=r"external links, track_order, or libver.*without these"):
        hdf5_file.read(path)


def test_groups_nested_very_deeply_are_refused(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.id
        for _ in range(300):
            group = h5py.h5g.create(group, b"x" * 20)
    with pytest.raises(FormatError, match="name of more than"):
        hdf5_file.read(path)


def test_structures_that_lead_to_themselves_are_refused(tmp_path):
    path = tmp_path / "m.h5"
    write(path, {"w": np.ones(3)})
    content = path.read_bytes()
    tree = content.index(b"TREE")
    path.write_bytes(content[: tree + 32] + tree.to_bytes(8, "little") + content[tree + 40 :])
    with pytest.raises(FormatError, match="structures overlap"):
        hdf5_file.read(path)


def test_structures_that_claim_too_much_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "m.h5"
    write(path, {"w": np.ones(3)})
    content = path.read_bytes()
    heap = content.index(b"HEAP")
    path.write_bytes(content[: heap + 8] + (1 << 60).to_bytes(8, "little") + content[heap + 16 :])
    with pytest.raises(FormatError, match="cut off"):
        hdf5_file.read(path)


def test_shapes_that_are_not_those_of_the_elements_are_refused(tmp_path):
    path = tmp_path / "m.h5"
    write(path, {"w": np.ones((3, 777))})
    content = path.read_bytes()
    at = content.index((777).to_bytes(8, "little"))
    path.write_bytes(content[:at] + (1 << 62).to_bytes(8, "little") + content[at + 8 :])
    with pytest.raises(FormatError, match="'w' is not that of its elements"):
        hdf5_file.read(path)


def test_tensors_that_share_bytes_are_refused(tmp_path):
    path = tmp_path / "m.h5"
    write(path, {"v": np.ones(333), "w": np.ones(333)})
    with h5py.File(path) as file:
        places = [pack("<QQ", file[name].id.get_offset(), 333 * 8) for name in "vw"]
    path.write_bytes(path.read_bytes().replace(*places))
    with pytest.raises(FormatError, match="overlaps"):
        hdf5_file.read(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_damage_is_an_error_or_leaves_tensors_within_the_file(tmp_path, damaged, are_within, libver):
    path = tmp_path / "m.h5"
    write(path, {"a/w": np.ones((2, 3), np.float32), "b": np.ones(2, np.int8)}, libver=libver)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with suppress(FormatError):
            assert are_within(hdf5_file.read(path))


def test_newer_and_unusual_files_are_refused(tmp_path):
    path = tmp_path / "m.h5"
    for content, reason in (
        (hdf5_objects.SIGNATURE + b"\x04" + bytes(100), "too new"),
        (hdf5_objects.SIGNATURE + b"\x02\x04\x04" + bytes(100), "other addresses"),
        (b"something else" + bytes(100), "signature is missing"),
    ):
        path.write_bytes(content)
        assert hdf5_file.recognises(path, content[:16])
        with pytest.raises(FormatError, match=reason):
            hdf5_file.read(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="cannot be read"):
        hdf5_file.read(tmp_path / "none.h5")
