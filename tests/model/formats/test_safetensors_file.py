import json
import struct

import numpy as np
import pytest

from metaq.errors import FormatError
from metaq.model.folder import open_folder
from metaq.model.formats.safetensors_file import read


def write(path, kind, shape, size_bytes):
    """A file of a float32 tensor, one of another type, and a second float32 tensor."""
    places = {"a": ("F32", [2, 2], 16), "s": (kind, shape, size_bytes), "z": ("F32", [3], 12)}
    header, stop = {}, 0
    for name, (dtype, lengths, size) in places.items():
        header[name] = {"dtype": dtype, "shape": lengths, "data_offsets": [stop, stop + size]}
        stop += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.arange(stop, dtype=np.uint8).tobytes())
    return path


OTHER_TYPES = {"F8_E8M0": ([8], 8), "F4": ([4, 8], 16), "F6_E2M3": ([8], 6), "F8_E4M3FNUZ": ([8], 8)}


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_types_that_no_file_can_hold_stay_around_the_others(tmp_path, elements, refilled, kind):
    file = read(write(tmp_path / "model.safetensors", kind, *OTHER_TYPES[kind]))
    assert not file.is_state_dict
    assert file.left_out == {"s": f"is of type {kind}"}
    assert elements(file)["a"].view(np.uint8).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]
    again = tmp_path / "again.safetensors"
    written = refilled(file, again)
    assert elements(read(again))["z"].tolist() == written["z"].tolist()
    size_bytes = OTHER_TYPES[kind][1]
    assert again.read_bytes()[-12 - size_bytes : -12] == bytes(range(16, 16 + size_bytes))


@pytest.mark.parametrize(("kind", "shape", "size_bytes"), [("F8_E8M0", [9], 8), ("NONSENSE", [8], 8)])
def test_sizes_that_do_not_fit_and_unknown_types_are_refused(tmp_path, kind, shape, size_bytes):
    with pytest.raises(FormatError, match="not a readable safetensors file"):
        read(write(tmp_path / "model.safetensors", kind, shape, size_bytes))


def test_shards_may_hold_such_types(tmp_path):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    write(tmp_path / shards[0], "F8_E8M0", [8], 8)
    text = json.dumps({"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / shards[1]).write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    index = {"weight_map": {**dict.fromkeys("asz", shards[0]), "b": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    folder = open_folder(tmp_path)
    assert folder.written is None
    assert folder.main == tuple(shards)
