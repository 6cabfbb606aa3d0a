from contextlib import suppress
from dataclasses import dataclass

import flatbuffers
import numpy as np
import pytest

from metaq.errors import FormatError
from metaq.model.formats import tflite_file
from metaq.tensors.quantized import Dtype

TYPES = {"float32": 0, "float16": 1, "int32": 2, "string": 5, "int8": 9, "int4": 17, "bfloat16": 18}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a subgraph as the schema has it."""

    name: str
    shape: tuple[int, ...]
    type: str
    buffer: int
    is_sparse: bool = False


def table(builder, fields):
    """Write a table: a function of the builder, its default and a value for the number of each field."""
    builder.StartObject(max(fields, default=-1) + 1)
    for number, (kind, value) in fields.items():
        default = 0
        getattr(builder, f"Prepend{kind}Slot")(number, value, default)
    return builder.EndObject()


def vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def model(subgraphs, buffers, *, in_flatbuffer=True):
    """A model with the tensors of each subgraph, and the contents of its buffers, in the flatbuffer or after it."""
    builder = flatbuffers.Builder()
    made = []
    for content in buffers:
        if in_flatbuffer:
            made.append(table(builder, {0: ("UOffsetTRelative", builder.CreateByteVector(content))} if content else {}))
        else:
            # Places are put in once the size of the flatbuffer is known.
            place = {1: ("Uint64", 0xABCD0000 + len(made)), 2: ("Uint64", len(content))} if content else {}
            made.append(table(builder, place))
    held = vector(builder, made)
    graphs = []
    for tensors in subgraphs:
        written = []
        for each in tensors:
            name = builder.CreateString(each.name)
            shape = builder.CreateNumpyVector(np.array(each.shape, np.int32)) if each.shape else 0
            sparsity = table(builder, {}) if each.is_sparse else 0
            fields = {
                0: ("UOffsetTRelative", shape),
                1: ("Int8", TYPES[each.type]),
                2: ("Uint32", each.buffer),
                3: ("UOffsetTRelative", name),
                6: ("UOffsetTRelative", sparsity),
            }
            written.append(table(builder, fields))
        graphs.append(table(builder, {0: ("UOffsetTRelative", vector(builder, written))}))
    held_graphs = vector(builder, graphs)
    root = {0: ("Uint32", 3), 2: ("UOffsetTRelative", held_graphs), 4: ("UOffsetTRelative", held)}
    builder.Finish(table(builder, root), file_identifier=b"TFL3")
    content = bytes(builder.Output())
    if not in_flatbuffer:
        for number, each in enumerate(buffers):
            if each:
                marker = (0xABCD0000 + number).to_bytes(8, "little")
                content = content.replace(marker, len(content).to_bytes(8, "little")) + each
    return content


VALUES = {
    "conv/kernel": np.arange(12, dtype=np.float32).reshape(2, 2, 3),
    "half": np.arange(4, dtype=np.float16),
    "packed": np.arange(5, dtype=np.int8),
    "shape": np.array(3, np.int32),
}


def example(*, in_flatbuffer=True):
    buffers = [b"", *(array.tobytes() for array in VALUES.values())]
    tensors = [Tensor(name, VALUES[name].shape, str(VALUES[name].dtype), i + 1) for i, name in enumerate(VALUES)]
    return model([[*tensors, Tensor("input", (1, 3), "float32", 0)]], buffers, in_flatbuffer=in_flatbuffer)


@pytest.fixture
def written(tmp_path):
    """A function that writes a model and returns its path."""

    def write(content):
        path = tmp_path / "m.tflite"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("in_flatbuffer", [True, False])
def test_constant_tensors_are_read_where_they_lie(written, elements, in_flatbuffer):
    path = written(example(in_flatbuffer=in_flatbuffer))
    file = tflite_file.read(path)
    assert tflite_file.recognises(path, path.read_bytes()[:16])
    found = elements(file)
    assert list(found) == list(VALUES)
    for name, array in VALUES.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert not file.left_out
    assert not file.is_state_dict


def test_the_rest_of_a_filled_file_is_as_before(tmp_path, written, elements, refilled):
    path = written(example())
    new = refilled(tflite_file.read(path), tmp_path / "n.tflite")
    found = elements(tflite_file.read(tmp_path / "n.tflite"))
    assert all(np.array_equal(found[name], array) for name, array in new.items())
    refilled(tflite_file.read(tmp_path / "n.tflite"), path)
    differing = sum(a != b for a, b in zip(path.read_bytes(), example(), strict=True))
    assert 0 < differing <= sum(array.nbytes for array in VALUES.values())


def test_tensors_of_the_same_elements_are_tied(written):
    tensors = [Tensor("a", (4,), "float32", 1), Tensor("b", (4,), "float32", 1), Tensor("c", (2, 2), "float32", 1)]
    file = tflite_file.read(written(model([tensors[:1], tensors[1:]], [b"", bytes(16)])))
    assert [tensor.name for tensor in file.tensors] == ["a"]
    assert file.ties == {"b": "a"}
    assert file.left_out == {"c": "has the elements of 'a' in another shape or type"}
    assert not file.reasons


def test_elements_that_are_of_two_types_are_kept(written):
    tensors = [Tensor("a", (4,), "float32", 1), Tensor("b", (16,), "int8", 1)]
    file = tflite_file.read(written(model([tensors], [b"", bytes(16)])))
    assert set(file.reasons) == {"a"}
    assert set(file.left_out) == {"b"}


def test_names_that_occur_again_are_told_apart(written):
    tensors = [Tensor("a", (1,), "float32", 1), Tensor("a", (1,), "float32", 2), Tensor("", (1,), "float32", 3)]
    file = tflite_file.read(written(model([tensors[:2], tensors[2:]], [b"", bytes(4), bytes(4), bytes(4)])))
    assert [tensor.name for tensor in file.tensors] == ["a", "a#0.1", "#1.0"]


def test_sparse_tensors_are_vectors_of_what_they_hold(written):
    file = tflite_file.read(written(model([[Tensor("a", (100, 100), "float16", 1, is_sparse=True)]], [b"", bytes(10)])))
    assert [(tensor.shape, tensor.dtype) for tensor in file.tensors] == [((5,), Dtype.float16)]


def test_what_is_no_tensor_is_left_out_with_the_reason(written):
    tensors = [
        Tensor("a", (4,), "int4", 1),
        Tensor("b", (1,), "string", 2),
        Tensor("c", (4,), "float32", 3),
        Tensor("d", (-2, -2), "float32", 4),
        Tensor("e", (2,), "bfloat16", 5),
    ]
    file = tflite_file.read(written(model([tensors], [b"", bytes(2), bytes(9), bytes(15), bytes(16), bytes(4)])))
    assert file.left_out == {
        "a": "is of type int4",
        "b": "is of type string",
        "c": "is of another size than its shape",
        "d": "is of another size than its shape",
    }
    assert [(tensor.name, tensor.dtype) for tensor in file.tensors] == [("e", Dtype.bfloat16)]


def test_buffers_that_are_missing_are_refused(written):
    with pytest.raises(FormatError, match="no buffer 7"):
        tflite_file.read(written(model([[Tensor("a", (1,), "float32", 7)]], [b""])))


def test_elements_beyond_the_file_are_refused(written):
    with pytest.raises(FormatError, match="cut off"):
        tflite_file.read(written(example(in_flatbuffer=False)[:-30]))


def test_many_dimensions_are_refused(written):
    with pytest.raises(FormatError, match="has 33 dimensions"):
        tflite_file.read(written(model([[Tensor("a", (1,) * 33, "float32", 1)]], [b"", bytes(4)])))


def test_tables_that_are_used_over_and_over_are_refused(written):
    content = model([[Tensor("x" * 50_000, (1,), "float32", 1)] * 2] + [[]] * 2000, [b"", bytes(4)])
    # All subgraphs become the first one.
    subgraphs = content.index((2001).to_bytes(4, "little")) + 4
    first = subgraphs + int.from_bytes(content[subgraphs : subgraphs + 4], "little")
    offsets = b"".join((first - subgraphs - 4 * i).to_bytes(4, "little") for i in range(2001))
    with pytest.raises(FormatError, match="tables overlap"):
        tflite_file.read(written(content[:subgraphs] + offsets + content[subgraphs + len(offsets) :]))


@pytest.mark.parametrize("in_flatbuffer", [True, False])
def test_damage_is_an_error_or_leaves_tensors_within_the_file(written, damaged, are_within, in_flatbuffer):
    for content in damaged(example(in_flatbuffer=in_flatbuffer)):
        path = written(content)
        with suppress(FormatError):
            assert are_within(tflite_file.read(path))


def test_files_that_are_something_else_are_refused(tmp_path, written):
    path = written(b"something else")
    with pytest.raises(FormatError, match="identifier is missing"):
        tflite_file.read(path)
    assert not tflite_file.recognises(tmp_path / "m.bin", b"something else")
    with pytest.raises(FormatError, match="cannot be read"):
        tflite_file.read(tmp_path / "none.tflite")
