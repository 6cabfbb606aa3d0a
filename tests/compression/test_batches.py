"""Calibration data as people have it."""

from __future__ import annotations

import itertools
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from metaq import ConfigError, compress
from metaq.compression import batches as preparing
from metaq.compression.batches import prepared

IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % 5
TOKENS = torch.randint(0, 20, (24, 6), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(TOKENS)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


class Reader(nn.Module):
    """Takes its arguments as models of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 5)
        self.seen: list[set[str]] = []

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_loss: bool = False,
    ) -> dict[str, torch.Tensor]:
        given = {"attention_mask": attention_mask, "labels": labels}
        self.seen.append({name for name, value in given.items() if value is not None})
        assert return_loss is False
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return {"logits": self.head((self.embed(input_ids) * mask[..., None]).mean(dim=1))}


class Unlabelled(Reader):
    """The same without labels."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return super().forward(input_ids, attention_mask)


class Anything(nn.Module):
    """A wrapper whose signature tells nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *arguments: object, **named: object) -> object:
        return self.inner(*arguments, **named)


def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield from zip(IMAGES.split(8), LABELS.split(8), strict=True)


def texts(**others: Any) -> list[dict[str, Any]]:
    return [
        {"input_ids": ids, "attention_mask": mask, **{name: value[:8] for name, value in others.items()}}
        for ids, mask in zip(TOKENS.split(8), MASK.split(8), strict=True)
    ]


def loader(*tensors: torch.Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=8)


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param(lambda: loader(IMAGES, LABELS), id="loader of pairs"),
        pytest.param(lambda: DataLoader(IMAGES, batch_size=8), id="loader of tensors"),  # type: ignore[arg-type]
        pytest.param(lambda: list(pairs()), id="tuples"),
        pytest.param(pairs, id="generator"),
        pytest.param(lambda: (inputs for inputs, _ in pairs()), id="generator of tensors"),
        pytest.param(lambda: [inputs.numpy() for inputs, _ in pairs()], id="arrays"),
        pytest.param(lambda: [inputs.double().numpy() for inputs, _ in pairs()], id="arrays of float64"),
        pytest.param(lambda: [(inputs.numpy(), labels.numpy()) for inputs, labels in pairs()], id="pairs of arrays"),
        pytest.param(lambda: IMAGES.split(8), id="split"),
    ],
)
@pytest.mark.parametrize("wrapped", [lambda model: model, Anything], ids=["plain", "wrapped"])
def test_images_with_and_without_labels_give_the_same_file(batches: Callable[[], Any], wrapped: Any) -> None:
    usual = compress(convolutional(), batches=list(IMAGES.split(8)), target_ratio=4)
    network = wrapped(convolutional())
    if isinstance(network, Anything):
        assert [batch.shape for batch in map(_inputs, prepared(network, batches()))] == [(8, 3, 8, 8)] * 6
    else:
        assert compress(network, batches=batches(), target_ratio=4).data == usual.data


def _inputs(batch: Any) -> torch.Tensor:
    return batch[0] if isinstance(batch, tuple) else batch


@pytest.mark.parametrize("whole", [IMAGES, IMAGES.numpy(), IMAGES.double().numpy()[::1]])
def test_one_tensor_is_cut_into_batches(whole: Any) -> None:
    found = prepared(convolutional(), whole)
    assert torch.equal(torch.cat(found), IMAGES)  # type: ignore[arg-type]
    assert len(found) == 8
    assert compress(convolutional(), batches=whole, keep=0.9).kept is not None
    assert len(prepared(convolutional(), whole, is_whole=True)) == 1


def test_arrays_that_cannot_be_shared_are_copied() -> None:
    array = IMAGES.numpy()[:, ::-1].astype(">f8")
    array.flags.writeable = False
    (found,) = prepared(convolutional(), [array])
    assert torch.equal(found, IMAGES.flip(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_mappings_are_keyword_arguments(kind: Callable[[Any], Any]) -> None:
    model = Reader()
    found = prepared(model, [kind(batch) for batch in texts()])
    assert [set(batch) for batch in found] == [{"input_ids", "attention_mask"}] * 3
    assert compress(model, batches=texts(), target_ratio=2).kept is not None
    assert len(prepared(model, kind(texts()[0]))) == 1


def test_labels_are_dropped_only_where_they_are_not_taken() -> None:
    labelled = texts(labels=LABELS, text=["some", "text"])
    assert [set(batch) for batch in prepared(Reader(), labelled)] == [{"input_ids", "attention_mask", "labels"}] * 3
    assert [set(batch) for batch in prepared(Unlabelled(), labelled)] == [{"input_ids", "attention_mask"}] * 3
    assert [set(batch) for batch in prepared(Anything(Unlabelled()), labelled)] == [{"input_ids", "attention_mask"}] * 3


def test_a_mapping_with_its_labels_beside_it() -> None:
    with_labels = [(batch, LABELS[:8]) for batch in texts()]
    assert [set(batch) for batch in prepared(Unlabelled(), with_labels)] == [{"input_ids", "attention_mask"}] * 3


def test_a_tuple_goes_to_as_many_arguments_as_take_tensors() -> None:
    three = list(zip(TOKENS.split(8), MASK.split(8), LABELS[:24].split(8), strict=True))
    assert [len(batch) for batch in prepared(Unlabelled(), three)] == [2] * 3
    assert [len(batch) for batch in prepared(Reader(), [(*batch, batch[0]) for batch in three])] == [3] * 3


def test_what_a_network_cannot_take_beside_its_input_is_left_out() -> None:
    class Fails(Reader):
        def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> object:  # type: ignore[override]
            if labels is not None:
                raise ValueError("one label a token")
            return super().forward(x)

    found = prepared(Fails(), list(zip(TOKENS.split(8), LABELS[:24].split(8), strict=True)))
    assert [len(batch) for batch in found] == [1] * 3


def test_a_network_that_takes_the_mapping_itself() -> None:
    class Whole(Reader):
        def forward(self, batch: dict[str, torch.Tensor]) -> object:  # type: ignore[override]
            return super().forward(batch["input_ids"])

    assert compress(Whole(), batches=texts(labels=LABELS), target_ratio=2).file_bytes


def test_tensors_keep_their_type_and_the_module_its_mode() -> None:
    model = convolutional().train()
    images = list(IMAGES.split(8))
    found = prepared(model, images)
    assert all(own is given for own, given in zip(found, images, strict=True))
    assert model.training


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([IMAGES.double()], r"float64 of shape \(48, 3, 8, 8\).*weights are float32 on cpu, and it takes input "),
        ([IMAGES.to("meta")], r"float32 of shape \(48, 3, 8, 8\) on meta; its weights are float32 on cpu"),
        ([IMAGES[:, :2]], r"shape \(48, 2, 8, 8\).*RuntimeError: .*channels"),
        ([(IMAGES[:, :2], LABELS)], r"shape \(48, 2, 8, 8\)"),
        ([{"image": IMAGES}], r"image: float32 of shape .* takes input"),
        (iter([]), "there is no batch; give at least one, and a generator that was not read yet"),
        ([], "there is no batch"),
        (3, "a int is none"),
        (torch.tensor(1.0), "first dimension"),
        (TensorDataset(IMAGES), "a dataset has single samples; give a DataLoader"),
        (["a text"], "the first, a str;"),
        ([np.array(["a text"])], "the first, a ndarray;"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_a_sentence(batches: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^batches: [^\n]*{message}[^\n]*$"):
        compress(convolutional(), batches=batches, target_ratio=4)


@pytest.mark.parametrize("other", [IMAGES[:8, :, :6], IMAGES[:8].double(), IMAGES[:8, :2], TOKENS])
def test_a_later_batch_that_does_not_fit_is_refused_in_a_sentence(other: torch.Tensor) -> None:
    given = [IMAGES[:16], IMAGES[16:24], other, IMAGES[24:]]
    with pytest.raises(ConfigError, match=r"^batches: .* but not on number 3, [^\n]*; give others, or leave it out\.$"):
        compress(convolutional(), batches=given)
    assert len(prepared(convolutional(), [*given[:2], given[3]])) == 3


def test_packed_sequences_are_one_argument() -> None:
    torch.manual_seed(0)
    module = nn.GRU(12, 16, batch_first=True)
    lengths = torch.tensor([10, 7, 5, 2])
    packed = [
        nn.utils.rnn.pack_padded_sequence(part, lengths, batch_first=True) for part in torch.randn(32, 10, 12).split(4)
    ]
    assert all(type(batch[0]) is nn.utils.rnn.PackedSequence for batch in prepared(module, packed))
    made = compress(module, batches=packed, keep=0.99)
    assert made.kept is not None
    assert made.kept >= 0.99


def test_batches_without_samples_or_without_their_dimension_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"number 2, float32 of shape \(0, 3, 8, 8\), has no samples"):
        compress(convolutional(), batches=[IMAGES[:8], IMAGES[:0], IMAGES[8:]], target_ratio=4)
    with pytest.raises(ConfigError, match="cannot be run on some of its samples alone"):
        compress(nn.Linear(12, 20), batches=[torch.randn(12)], target_ratio=4)
    # Nothing is held out where a figure is measured otherwise.
    assert compress(nn.Linear(12, 20), batches=[torch.randn(12)], accuracy=lambda _: 1.0, target_ratio=4).kept is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_traced_module_takes_what_it_is_given() -> None:
    traced = torch.jit.trace(convolutional(), IMAGES[:2])
    assert len(prepared(traced, list(IMAGES.split(16)))) == 3


def test_layers_of_complex_numbers_are_kept_exactly() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(16, 8, dtype=torch.complex64)
            self.head = nn.Linear(8, 40)

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return self.head(self.first(points.to(torch.complex64)).abs())

    module = Complex()
    restored = compress(module, batches=list(torch.randn(64, 16).split(16))).state_dict()
    assert torch.equal(restored["first.weight"], module.first.weight)


def test_weights_that_make_all_outputs_nan_are_told() -> None:
    module = convolutional()
    with torch.no_grad():
        next(module.parameters())[:, 0] = torch.nan
    with pytest.raises(ConfigError, match="all outputs for the first are NaN"):
        compress(module, batches=list(IMAGES.split(16)))


def test_every_shape_is_tried_once() -> None:
    model = Unlabelled()
    lengths = (6, 4, 4, 6, 3)
    given = [{"input_ids": TOKENS[:3, :length], "attention_mask": MASK[:3, :length]} for length in lengths]
    assert len(prepared(model, given)) == len(lengths)
    assert len(model.seen) == len(set(lengths))


def test_an_argument_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^batches: .*attention_maks.*takes input_ids, attention_mask"):
        compress(Unlabelled(), batches=[{"input_ids": TOKENS, "attention_maks": MASK}], target_ratio=4)


def test_a_network_that_takes_a_list() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = convolutional()

        def forward(self, images: list[torch.Tensor], targets: object = None) -> object:  # noqa: ARG002
            return self.inner(torch.stack(images))

    assert compress(Several(), batches=[list(part) for part in IMAGES.split(8)], target_ratio=4).file_bytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_are_moved_to_the_model() -> None:
    (first, *_) = prepared(Anything(convolutional()).cuda(), loader(IMAGES, LABELS))
    assert _inputs(first).device.type == "cuda"


def test_a_generator_that_never_ends_is_read_as_far_as_it_may_be_kept(monkeypatch, caplog) -> None:
    monkeypatch.setattr(preparing, "MOST_BYTES", 10 * IMAGES.nbytes)
    found = prepared(convolutional(), ((IMAGES, LABELS) for _ in itertools.count()))
    assert 9 <= len(found) <= 11
    assert "no more are read" in caplog.text
    assert len(prepared(convolutional(), [IMAGES] * 30)) == 30
