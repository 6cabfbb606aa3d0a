import pytest
import torch
from safetensors.torch import save_file

from metaq.errors import FormatError
from metaq.model.opened import open_model
from metaq.model.stored import Reader


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.randn(800, 400)}, path)
    (tensor,) = open_model(path).tensors
    with Reader() as reader:
        assert reader.elements(tensor, 0, 10).size == 10
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(FormatError, match="ends within 'w'"):
            reader.elements(tensor, 0, tensor.count)


def test_elements_are_those_of_the_range_that_is_asked_for(tmp_path):
    weights = torch.randn(37, 11)
    save_file({"w": weights, "a": torch.arange(7)}, tmp_path / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in open_model(tmp_path / "model.safetensors").tensors}
    with Reader() as reader:
        assert reader.elements(tensors["w"], 13, 201).tolist() == weights.flatten()[13:201].tolist()
        assert reader.elements(tensors["a"], 2, 2).size == 0
        assert reader.raw(tensors["a"], 8, 24) == torch.tensor([1, 2]).numpy().tobytes()
