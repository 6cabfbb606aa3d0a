import io
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from metaq.errors import FormatError
from metaq.model.formats import arrays_file
from metaq.tensors.quantized import Dtype


class Pickled:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def arrays():
    random = np.random.default_rng(0)
    return {
        "layer/weight": random.standard_normal((3, 5)).astype(np.float32),
        "half": random.standard_normal((2, 3, 4)).astype(np.float16),
        "steps": np.array(7),
        "mask": np.array([True, False]),
        "complex": np.ones(3, np.complex128),
        "none": np.zeros((0, 4)),
    }


def npy(header, elements=b"", version=1):
    text = header.encode("latin1")
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + elements


def described(descr="'<f4'", shape="(2,)", fortran_order=False):
    return f"{{'descr': {descr}, 'fortran_order': {fortran_order}, 'shape': {shape}}}"


def check_elements(file, elements, expected):
    found = elements(file)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(found[name], array)


def test_arrays_of_savez_are_read_where_they_lie(tmp_path, elements):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays())
    file = arrays_file.read(path)
    assert arrays_file.recognises(path, path.read_bytes()[:16])
    assert not file.is_state_dict
    assert not file.left_out
    check_elements(file, elements, arrays())
    assert file.tensors[1].dtype is Dtype.float16


def test_numpy_reads_the_elements_that_a_file_is_filled_with(tmp_path, refilled):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(), kept=np.array(["text"]))
    written = refilled(arrays_file.read(path), tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as found:
        assert set(found.files) == {*arrays(), "kept"}
        for name, array in written.items():
            np.testing.assert_array_equal(found[name], array)
        assert found["kept"] == ["text"]
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        assert archive.testzip() is None


def test_compressed_arrays_are_a_state_dict(tmp_path, elements):
    path = tmp_path / "a.npz"
    transposed = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    big = np.arange(4, dtype=">f4")
    np.savez_compressed(path, **arrays(), transposed=transposed, big=big)
    file = arrays_file.read(path)
    assert file.is_state_dict
    assert not file.checksums
    check_elements(file, elements, {**arrays(), "transposed": transposed, "big": big})


def test_arrays_of_another_order_are_a_state_dict(tmp_path, elements):
    odd = {
        "transposed": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(4, dtype=">f4"),
        "both": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    }
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(), **odd)
    file = arrays_file.read(path)
    assert file.is_state_dict
    assert not file.checksums
    check_elements(file, elements, {**arrays(), **odd})
    # Where the same file is to come back they stay as they are.
    kept = arrays_file.read(path, keep_all=True)
    assert not kept.is_state_dict
    assert set(kept.left_out) == set(odd)


def test_a_single_array_is_a_tensor(tmp_path, elements, refilled):
    path = tmp_path / "weights.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    file = arrays_file.read(path)
    assert arrays_file.recognises(path, path.read_bytes()[:16])
    check_elements(file, elements, {"array": np.arange(6.0).reshape(2, 3)})
    written = refilled(file, tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), written["array"])


def test_what_is_no_tensor_is_left_out_with_the_reason(tmp_path, elements):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        weight=np.ones(3),
        transposed=np.asfortranarray(np.ones((2, 3))),
        big=np.ones(2, ">f8"),
        text=np.array(["ab"]),
        records=np.zeros(2, "f4,i2"),
        objects=np.array([Pickled(), None], object),
    )
    file = arrays_file.read(path)
    check_elements(file, elements, {"weight": np.ones(3)})
    assert file.left_out == {
        "transposed": "is in Fortran order",
        "big": "is big-endian",
        "text": "is of type <U2",
        "records": "is of type |V6",
        "objects": "needs pickle",
    }


def test_vectors_in_fortran_order_are_tensors(tmp_path, elements):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(described(fortran_order=True), np.arange(2, dtype="<f4").tobytes()))
    check_elements(arrays_file.read(path), elements, {"array": np.arange(2, dtype="<f4")})


def test_a_compressed_archive_of_more_than_numbers_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, weight=np.ones(3), objects=np.array([Pickled()], object))
    with pytest.raises(FormatError, match="'objects' needs pickle"):
        arrays_file.read(path)


def test_arrays_that_unpack_to_far_more_than_the_file_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, zeros=np.zeros(100_000))
    assert arrays_file.read(path).tensors
    monkeypatch.setattr(arrays_file, "MOST_UNPACKED_BYTES", 100_000)
    with pytest.raises(FormatError, match="more than 100 times the size of the file"):
        arrays_file.read(path)


def test_a_compressed_array_longer_than_it_claims_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, zeros=np.zeros(10_000))
    content = path.read_bytes()
    length = (10_000 * 8 + 128).to_bytes(4, "little")
    at = content.rindex(length)
    path.write_bytes(content[:at] + (1000).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(FormatError, match="'zeros' is damaged"):
        arrays_file.read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(described(shape="(3,)"), bytes(8)), "ends within its elements"),
        (npy(described(shape=f"({2**40}, {2**40})"), bytes(8)), "shape"),
        (npy(described(shape=f"(0, {2**70})")), "shape"),
        (npy(described(shape="(-1,)"), bytes(8)), "shape"),
        (npy(described(shape="2"), bytes(8)), "header cannot be read"),
        (npy(described(descr="__import__('os')"), bytes(8)), "header cannot be read"),
        (npy("(" * 5000), "header cannot be read"),
        (npy("[" * 20_000 + "]" * 20_000), "header takes 40000 bytes"),
        (npy("x", version=2)[:9] + b"\xff\xff\xff", "header takes"),
        (npy(described(), bytes(8), version=4), "does not begin as arrays do"),
        (b"\x93NUMPY", "does not begin as arrays do"),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path, content, reason):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        arrays_file.read(path)


def test_headers_of_all_versions_and_of_python_2_are_read(tmp_path, elements):
    path = tmp_path / "a.npy"
    values = np.arange(2, dtype="<f4")
    for version, shape in ((1, "(2,)"), (2, "(2,)"), (3, "(2,)"), (1, "(2L,)")):
        path.write_bytes(npy(described(shape=shape), values.tobytes(), version=version))
        check_elements(arrays_file.read(path), elements, {"array": values})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_an_error_or_leaves_tensors_within_the_file(tmp_path, damaged, are_within, save):
    whole = io.BytesIO()
    save(whole, a=np.arange(3, dtype=np.float32), b=np.ones((2, 2), order="F"))
    path = tmp_path / "a.npz"
    for content in damaged(whole.getvalue()):
        path.write_bytes(content)
        with suppress(FormatError):
            assert are_within(arrays_file.read(path))


def test_other_archives_are_not_recognised(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        archive.writestr("a.txt", b"")
    head = path.read_bytes()[:16]
    assert not arrays_file.recognises(path, head)
    assert arrays_file.recognises(path.with_suffix(".npz"), head)
    assert not arrays_file.recognises(tmp_path / "a.bin", b"\x89HDF\r\n\x1a\n" + bytes(8))
