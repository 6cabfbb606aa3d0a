import pytest

from metaq.errors import FormatError
from metaq.model.formats.reading import read_file


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_parts_of_distributed_checkpoints_are_told(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(FormatError, match=r"part of a distributed checkpoint.*dcp_to_torch FOLDER FILE"):
        read_file(path)
    assert read_file(path, lossless=True).tensors == ()
