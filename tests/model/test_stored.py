import pytest
import torch
from safetensors.torch import save_file

from metaq.errors import FormatError
from metaq.model.opened import open_model
from metaq.model.stored import Reader


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("could not determine the shape of object type 'torch.storage.UntypedStorage'", KeyboardInterrupt),
        ("no such row", FormatError),
    ],
)
def test_an_interruption_while_a_file_is_read_is_no_damage(tmp_path, monkeypatch, message, expected):
    save_file({"w": torch.randn(8, 4)}, tmp_path / "model.safetensors")
    model = open_model(tmp_path / "model.safetensors")

    def fails(*_):
        raise ValueError(message)

    monkeypatch.setattr(Reader, "_rows", fails)
    with Reader() as reader, pytest.raises(expected):
        reader.elements(model.tensors[0], 0, 32)
