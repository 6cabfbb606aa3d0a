"""The module that computes with the tensors of a model, whatever names it has for them, and the file that they make."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from metaq import container
from metaq.compression.compressed import Compressed
from metaq.compression.survey import blocks_of
from metaq.compression.uncalibrated import Request
from metaq.compression.updating import update_of
from metaq.config import require
from metaq.container import carried
from metaq.container.frame import open_frame
from metaq.container.layout import fits
from metaq.container.source import Source
from metaq.model.checkpoint import StateDict, restore
from metaq.model.opened import OpenedModel, open_model
from metaq.model.selection import BUFFER, Selection
from metaq.model.stored import Reader, StoredTensor
from metaq.tensors.coverage import coverage_of
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor, under_all_names
from metaq.tensors.scales import Scales


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a module has a tensor of a model: its name there, and whether it is transposed."""

    name: str
    is_transposed: bool = False


@runtime_checkable
class Placing(Protocol):
    """A module that knows where it has tensors of a model, by their names in that; they need not be looked for."""

    weight_places: Mapping[str, Place]


class _Whole(nn.Module):
    """A module with tensors that it does not have, on which no output depends."""

    def __init__(self, inner: nn.Module, others: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.others = nn.ParameterList(tensor.float() for tensor in others)

    def forward(self, *arguments: object, **named: object) -> object:
        """What the module gives."""
        return self.inner(*arguments, **named)


class Network:
    """The module that calibrates a model: the model itself or, if that is none, `module`, which holds its values.

    `request` is what is asked for, by names of the module. Chosen tensors that the module does not have are added to
    it. Raises :class:`ConfigError` if there is no module, or it holds no tensor of the model.
    """

    def __init__(self, request: Request, module: nn.Module | None) -> None:
        model = request.model
        self._stored = request
        self.request = request
        self._places: dict[str, Place] | None = None
        if module is None:
            require(
                model.module is not None,
                "batches: calibration needs the module, not its weights alone; give it as module.",
            )
            return
        require(model.module is None, "module: the model is a module itself; give no other.")
        found = _told(module) or matching(model, open_model(module))
        is_told = any(isinstance(part, Placing) for part in module.modules())
        require(
            bool(found) or not is_told,
            "calibration: all weights lie in loops or branches, which are not measured; give no inputs.",
        )
        require(bool(found), "module: no tensor of it has the values of one of the model; load them first.")
        chosen = dict.fromkeys(model.holders[name] for name in request.selection.names)
        others = [name for name in chosen if name not in found]
        with Reader() as reader:
            values = restore([reader.exact(model.tensor(name)) for name in others])
        inner = open_model(_Whole(module, [values[name] for name in others]))
        self._places = {name: replace(place, name=f"inner.{place.name}") for name, place in found.items()}
        self._places |= {name: Place(name=f"others.{number}") for number, name in enumerate(others)}
        firsts = dict.fromkeys(inner.first(self._places[name].name) for name in chosen)
        selection = Selection(
            names=tuple(name for name in firsts if name not in inner.buffers),
            reasons=dict.fromkeys(inner.buffers, BUFFER),
        )
        self.request = replace(request, model=inner, selection=selection)

    @property
    def module(self) -> nn.Module:
        """The module itself."""
        assert self.request.model.module is not None
        return self.request.model.module

    def weights(self, found: Compressed) -> StateDict:
        """Quantised weights by names of the module, but for tensors that the model does not have."""
        weights = found.state_dict()
        if self._places is None:
            return weights
        return {
            place.name: weights[name].mT.contiguous() if place.is_transposed else weights[name]
            for name, place in self._places.items()
        }

    @property
    def transposed(self) -> frozenset[str]:
        """Names in the module of tensors that it has transposed."""
        return frozenset(place.name for place in (self._places or {}).values() if place.is_transposed)

    @property
    def base(self) -> StateDict | None:
        """Tensors of the base of an update by names of the module; None if there is no base."""
        if self._stored.base is None:
            return None
        weights = self._stored.base.state_dict()
        if self._places is None:
            return weights
        return {
            place.name: weights[name].mT.contiguous() if place.is_transposed else weights[name]
            for name, place in self._places.items()
            if name in weights
        }

    def packed(
        self, tensors: Sequence[Tensor], reasons: Mapping[str, str], multiplier: float, sums: Collection[str]
    ) -> Compressed:
        """The file of the model for `tensors` by names of the module, some of them exact for these `reasons`, and some
        to be added to the base.
        """
        if self._places is not None:
            tensors = self._renamed(tensors, self._places)
            inner = {name: reasons[place.name] for name, place in self._places.items() if place.name in reasons}
            reasons = {**inner, **self._stored.selection.reasons}
            sums = {name for name, place in self._places.items() if place.name in sums}
        return packed(self._stored, tensors, reasons, multiplier, sums)

    def _renamed(self, tensors: Sequence[Tensor], places: Mapping[str, Place]) -> list[Tensor]:
        """The tensors by names and types of the model; those that the module holds once are tied."""
        model = self._stored.model
        by_name = {each.name: each.first if isinstance(each, TiedTensor) else each for each in tensors}
        first: dict[tuple[Place, Dtype], str] = {}
        held: dict[str, QuantizedTensor | ExactTensor] = {}
        with Reader() as reader:
            for stored in model.tensors:
                place = places.get(stored.name, Place(name=stored.name))
                inside = by_name.get(place.name) if stored.name in places else None
                if first.setdefault((place, stored.dtype), stored.name) != stored.name:
                    continue
                if isinstance(inside, QuantizedTensor) and fits(inside, stored.dtype):
                    inside = transposed(inside) if place.is_transposed else inside
                    held[stored.name] = replace(inside, name=stored.name, dtype=stored.dtype)
                else:
                    held[stored.name] = reader.exact(stored)
        holders = {
            name: first[places.get(holder, Place(name=holder)), model.tensor(name).dtype]
            for name, holder in model.holders.items()
        }
        return under_all_names(held, holders)


def packed(
    request: Request,
    tensors: Sequence[Tensor],
    reasons: Mapping[str, str],
    multiplier: float | None,
    sums: Collection[str] = (),
) -> Compressed:
    """The file that is asked for, of `tensors` by names of the model; see :meth:`Network.packed`."""
    model, metadata = request.model, request.file_metadata
    files = model.rest.files
    with Reader() as reader:
        exact = [reader.exact(file) for file in files]
    known: dict[str, Any] = {
        "float_bytes": model.float_bytes,
        "weights": model.weights,
        "coverage": coverage_of(tensors).explained(reasons),
        "multiplier": multiplier,
        "carried": tuple(carried.path_of(file.name) for file in files),
        "left_out": dict(model.rest.left_out),
        "notes": model.rest.notes,
    }
    if request.base is not None:
        return update_of(request.base, [*tensors, *exact], metadata, coder=request.coder, sums=sums, **known)
    data = container.encode([*tensors, *exact], coder=request.coder, metadata=metadata)
    with Source(BytesIO(data), "the file") as source:
        entries = open_frame(source)[0].entries
    carried_bytes = sum(entry.coded_bytes for entry in entries if carried.is_carried(entry.name, metadata))
    return Compressed(data=data, file_bytes=len(data), carried_bytes=carried_bytes, **known)


def transposed(tensor: QuantizedTensor) -> QuantizedTensor:
    """A matrix without a basis with rows for columns: all of its values are the same."""
    scales = tensor.scales
    return replace(
        tensor,
        indices=np.ascontiguousarray(tensor.indices.T),
        scan="columns" if tensor.scan == "rows" else "rows",
        scales=None if scales is None else Scales(rows=scales.columns, columns=scales.rows),
    )


def _told(module: nn.Module) -> dict[str, Place]:
    """Where parts of a module say that they have tensors of the model."""
    return {
        name: replace(place, name=f"{prefix}.{place.name}" if prefix else place.name)
        for prefix, part in module.named_modules()
        if isinstance(part, Placing)
        for name, place in part.weight_places.items()
    }


def matching(model: OpenedModel, inner: OpenedModel) -> dict[str, Place]:
    """Places in `inner` of floating tensors of `model`, by their names there: those of the same shape and values.

    Values are compared as float32. Where several tensors are equal, one of the same name is taken, or of one that ends
    alike, as modules within others have.
    """
    with Reader() as reader:
        known: dict[tuple[object, ...], list[str]] = {}
        for tensor in inner.tensors:
            if tensor.dtype.is_quantizable:
                known.setdefault(_digest(reader, tensor), []).append(tensor.name)
        digests = {tensor.name: _digest(reader, tensor) for tensor in model.tensors if tensor.dtype.is_quantizable}
    return {
        name: Place(name=max(known[digest], key=lambda own: _likeness(name, own)))
        for name, digest in digests.items()
        if digest in known
    }


def _likeness(name: str, other: str) -> int:
    """Number of last parts that two names have in common."""
    pairs = zip(reversed(name.split(".")), reversed(other.split(".")), strict=False)
    return next((number for number, (one, two) in enumerate(pairs) if one != two), min(len(name), len(other)))


def _digest(reader: Reader, tensor: StoredTensor) -> tuple[object, ...]:
    found = sha256()
    for start, stop in blocks_of(tensor):
        with np.errstate(over="ignore"):
            found.update(reader.values(tensor, start, stop).astype(np.float32).tobytes())
    return *tensor.shape, found.digest()
