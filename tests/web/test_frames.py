"""Frames in JavaScript: filled as Python fills them, refused where Python refuses them, and bounded beyond that."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaq import container
from metaq.container import templates
from metaq.container.carried import FILE, FOLDER
from metaq.container.templates import Hole, Repair, Template
from metaq.errors import FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor

WEB = Path(__file__).parents[2] / "web"
MAX_BYTES = 1 << 16
FRAMES = 60
MUTATIONS = 400

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def by_javascript(files: Sequence[bytes], folder: Path, path: str = "") -> list[dict[str, Any]]:
    """What JavaScript finds in every file; `path` names the model, if it has to be."""
    lines = []
    for number, data in enumerate(files):
        file = folder / f"{number}.metaq"
        file.write_bytes(data)
        lines.append(f"{file}\t{path}" if path else str(file))
    done = subprocess.run(
        ["node", str(WEB / "testing" / "fill_frames.js"), str(MAX_BYTES)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(files)
    assert all(each["error"].endswith(".") for each in found if "error" in each)
    return found


def in_bytes(digits: Mapping[str, str]) -> dict[str, bytes]:
    return {path: bytes.fromhex(each) for path, each in digits.items()}


def carried(name: str, data: bytes) -> ExactTensor:
    return ExactTensor(name=name, values=np.frombuffer(data, dtype=np.uint8), dtype=Dtype.uint8)


def some_tensors(generator: np.random.Generator) -> list[Tensor]:
    """Tensors of every kind of storage, whose names come before and after those of files."""
    first = ExactTensor(name="a", values=generator.normal(size=(3, 5)).astype(np.float32), dtype=Dtype.float32)
    return [
        first,
        TiedTensor(name="again", first=first),
        ExactTensor(name="empty", values=np.zeros((0, 4), dtype=np.int64), dtype=Dtype.int64),
        ExactTensor(name="scalar", values=np.array(7, dtype=np.int64), dtype=Dtype.int64),
        QuantizedTensor(
            name="weights",
            indices=generator.integers(0, 15, (8, 6)),
            grid=BucketGrid(center=0.0, radius=1.0, count=15),
            dtype=Dtype.float16,
        ),
    ]


def encoded(tensors: Sequence[Tensor], frames: Mapping[str, bytes], **metadata: str | int) -> bytes:
    files = [carried(name, data) for name, data in frames.items()]
    return container.encode([*tensors, *files], metadata=metadata or {FOLDER: 1}, coder="fast")


def numbered(tensors: Sequence[Tensor], names: Sequence[str]) -> tuple[dict[str, int], list[bytes]]:
    """Numbers of all tensors in a file that has files of these names, too; and the elements of each, b"" of a file."""
    elements = {tensor.name: np.ascontiguousarray(tensor.restore()).tobytes() for tensor in tensors}
    ordered = sorted([*elements, *names])
    return {name: ordered.index(name) for name in elements}, [elements.get(name, b"") for name in ordered]


def random_template(generator: np.random.Generator, numbers: Sequence[int], elements: Sequence[bytes]) -> Template:
    holes = tuple(
        Hole(gap=int(generator.integers(0, 20)), number=int(number)) for number in generator.permutation(numbers)
    )
    holes = holes[: int(generator.integers(0, len(holes) + 1))]
    rest = generator.bytes(sum(hole.gap for hole in holes) + int(generator.integers(8, 40)))
    size = len(rest) + sum(len(elements[hole.number]) for hole in holes)
    repairs = []
    for _ in range(int(generator.integers(0, 4))):
        start, stop = sorted(int(each) for each in generator.integers(0, size + 1, 2))
        repairs.append(Repair(position=int(generator.integers(0, size - 3)), start=start, stop=stop))
    return Template(holes=holes, repairs=tuple(repairs), rest=rest)


def filled(template: Template, elements: Sequence[bytes]) -> bytes:
    """The file of a template, by Python."""
    sizes = [len(each) for each in elements]
    stream = io.BytesIO()
    for position, piece in templates.pieces(template, sizes):
        stream.seek(position)
        stream.write(piece)
    for number, position in templates.places(template, sizes).items():
        stream.seek(position)
        stream.write(elements[number])
    templates.repair(stream, template)
    return stream.getvalue()


def test_frames_are_filled_as_by_python(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    files, expected = [], []
    for _ in range(FRAMES):
        tensors = some_tensors(generator)
        numbers, elements = numbered(tensors, ["frame:model.onnx"])
        template = random_template(generator, list(numbers.values()), elements)
        files.append(encoded(tensors, {"frame:model.onnx": template.encode()}))
        expected.append(filled(template, elements))
    found = by_javascript(files, tmp_path)
    assert [in_bytes(each["framed"]) for each in found] == [{"model.onnx": each} for each in expected]
    assert all(each["name"] == "model.onnx" for each in found)


def test_frames_are_refused_where_python_refuses_them(tmp_path: Path) -> None:
    """Bytes of frames are changed, inserted and taken away: both fill them alike, or neither does."""
    generator = np.random.default_rng(1)
    tensors = some_tensors(generator)
    numbers, elements = numbered(tensors, ["frame:model.onnx"])
    frames = []
    for _ in range(MUTATIONS):
        template = random_template(generator, list(numbers.values()), elements)
        frames.append(mutated(template.encode(), generator))
    found = by_javascript([encoded(tensors, {"frame:model.onnx": frame}) for frame in frames], tmp_path)
    accepted = 0
    for frame, line in zip(frames, found, strict=True):
        # The frame itself is a tensor that a hole may name.
        own = with_own(elements, numbers, frame)
        try:
            template = templates.decode(frame, [len(each) for each in own], source="m.metaq", name="frame:model.onnx")
        except FormatError:
            assert "frame:model.onnx" in line["error"], line
        else:
            assert in_bytes(line["framed"]) == {"model.onnx": filled(template, own)}
            accepted += 1
    assert MUTATIONS / 10 < accepted < MUTATIONS


def with_own(elements: Sequence[bytes], numbers: Mapping[str, int], frame: bytes) -> list[bytes]:
    """Elements of all tensors with those of the frame, which has the one number that no other tensor has."""
    (own,) = set(range(len(elements))) - set(numbers.values())
    return [frame if number == own else each for number, each in enumerate(elements)]


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """`data` with a byte near its beginning replaced, inserted or removed."""
    place = int(generator.integers(min(len(data), 30)))
    byte = bytes([int(generator.choice([0, 1, 2, 3, 127, 128, 255, generator.integers(256)]))])
    replacement = (byte, byte + data[place : place + 1], b"")[int(generator.integers(3))]
    return data[:place] + replacement + data[place + 1 :]


def test_frames_may_not_take_more_memory_than_is_allowed(tmp_path: Path) -> None:
    """Every frame may be filled with the same large tensor: all of them together are bounded."""
    zeros = ExactTensor(name="zeros", values=np.zeros(MAX_BYTES // 4, dtype=np.uint8), dtype=Dtype.uint8)
    few, many = (
        encoded([zeros], {f"frame:{number}.onnx": frame_of(count) for number in range(count)}) for count in (4, 5)
    )
    found = by_javascript([few, many], tmp_path)
    assert len(found[0]["framed"]) == 4
    assert "0 are left of maxBytes" in found[1]["error"]


def frame_of(number: int) -> bytes:
    """A frame that is nothing but a tensor."""
    return Template(holes=(Hole(gap=0, number=number),), repairs=(), rest=b"").encode()


def test_checksums_may_not_take_long(tmp_path: Path) -> None:
    """A frame may ask for no more checksums of all its bytes than some archive would."""
    size = 1 << 12
    frames = [
        Template(holes=(), repairs=(Repair(position=0, start=0, stop=size),) * count, rest=bytes(size)).encode()
        for count in (4, 5)
    ]
    found = by_javascript([encoded([], {"frame:model.onnx": frame}) for frame in frames], tmp_path)
    assert "model.onnx" in found[0]["framed"]
    assert "far more bytes than it has" in found[1]["error"]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (
            [ExactTensor(name="frame:m.onnx", values=np.zeros((2, 3), np.uint8), dtype=Dtype.uint8)],
            "is no run of bytes",
        ),
        ([ExactTensor(name="file:a.json", values=np.zeros(3, np.int8), dtype=Dtype.int8)], "is no run of bytes"),
        ([carried("file:m.onnx", b"x"), carried("frame:m.onnx", frame_of(0))], "has the name of another"),
    ],
)
def test_what_is_no_file_is_refused(tensors: list[Tensor], reason: str, tmp_path: Path) -> None:
    (found,) = by_javascript([container.encode(tensors, metadata={FOLDER: 1})], tmp_path)
    assert reason in found["error"]


def test_names_of_a_state_dict_have_no_meaning(tmp_path: Path) -> None:
    data = container.encode([carried("frame:model.onnx", b"\xff")], metadata={})
    (found,) = by_javascript([data], tmp_path)
    assert found["framed"] == {}
    assert "was not made of an ONNX model" in found["error"]


def test_external_data_are_found_from_the_model(tmp_path: Path) -> None:
    whole = {path: Template(holes=(), repairs=(), rest=path.encode()).encode() for path in ("m", "d", "other")}
    files = {
        "file:tokenizer.json": b"{}",
        "frame:onnx/model.onnx": whole["m"],
        "frame:onnx/parts/model.bin": whole["d"],
        "frame:elsewhere.bin": whole["other"],
    }
    (found,) = by_javascript([encoded([], files)], tmp_path)
    assert found["name"] == "onnx/model.onnx"
    assert in_bytes(found["externalData"]) == {"parts/model.bin": b"d"}
    assert in_bytes(found["files"]) == {"tokenizer.json": b"{}"}


def test_one_of_several_models_is_named(tmp_path: Path) -> None:
    frames = {f"frame:{name}.onnx": Template(holes=(), repairs=(), rest=b"x").encode() for name in "ab"}
    data = encoded([], frames, **{FILE: "a.onnx"})
    (unnamed,) = by_javascript([data], tmp_path)
    assert "a.onnx, b.onnx" in unnamed["error"]
    (named,) = by_javascript([data], tmp_path, "b.onnx")
    assert named["name"] == "b.onnx"
    (wrong,) = by_javascript([data], tmp_path, "c.onnx")
    assert "no ONNX model c.onnx" in wrong["error"]
