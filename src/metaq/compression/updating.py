"""A base and the tensors of a new model in, the smallest update that tells the one by the other out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from metaq import container
from metaq.compression.compressed import Compressed
from metaq.config import require
from metaq.container import Metadata
from metaq.container.applying import Held, checksum_of, tied
from metaq.container.carried import FILES, KEYS, is_carried, is_made_of_files
from metaq.container.contents import UpdateFacts
from metaq.container.layout import has_differences
from metaq.container.updates import Against, added
from metaq.model.applying import Model, applied
from metaq.model.checkpoint import StateDict
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Tensor, TiedTensor
from metaq.tensors.scales import Scales

TRIED_ELEMENTS = 1 << 18
"""Elements of a tensor by which it is decided how it is told."""

LEFT_BEHIND = (
    "the new model has other tensors and no files beside them, so that the base's, such as its configuration, are not "
    "in what the update gives"
)

NOWHERE = UpdateFacts(base=bytes(8), result=bytes(4))
"""Of an update that is made for its size alone."""


@dataclass(frozen=True, kw_only=True)
class Update(Compressed):
    """A model as an update of another; besides what :class:`metaq.compression.compressed.Compressed` has, its base.

    Attributes
    ----------
    base
        The model that it is to be applied to.
    changed, unchanged, removed
        Names of tensors that the file holds, number of those that are as the base has them, and names of those that the
        model has no more.
    """

    base: Model
    changed: tuple[str, ...] = ()
    unchanged: int = 0
    removed: tuple[str, ...] = ()

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the new model, those that are added to the base with their values."""
        return tuple(tied(applied(self.base, [self.data]).held))

    def state_dict(self) -> StateDict:
        """The weights of the new model, as they are restored from the base and the file."""
        return applied(self.base, [self.data]).state_dict()


def update_of(
    base: Model,
    tensors: Sequence[Tensor],
    metadata: Metadata,
    *,
    coder: str = container.DEFAULT_CODER,
    sums: Collection[str] = (),
    **known: Any,
) -> Update:
    """The update of `base` that gives these tensors, carried files among them.

    Those whose names are among `sums` are what is to be added to the base's. All others are told as takes fewest bytes:
    by the base or alone. What is the same costs nothing. `known` is what else is told of the update.
    """
    new, files = _by_name(tensors, metadata)
    require(bool(new), "the new model has no tensors.")
    # Tied tensors are one, by whichever of their names it was said.
    added_to = {id(new[name]) for name in sums if name in base.held and isinstance(new[name], QuantizedTensor)}
    summed = {name for name, tensor in new.items() if id(tensor) in added_to}
    result = _result(base, new, summed)
    changed = {name: tensor for name, tensor in new.items() if not _is_same(base, result, name)}
    against = {name: Against(elements=base.elements[name].values, is_sum=True) for name in summed & changed.keys()}
    firsts: set[int] = set()
    for name in sorted(changed.keys() - summed, key=str.encode):
        # Of tied tensors the first in the file holds the elements, and is told by its own in the base.
        if id(changed[name]) not in firsts:
            firsts.add(id(changed[name]))
            beside = _against(changed[name], base.elements.get(name), coder)
            against |= {} if beside is None else {name: beside}
    names = list(base.held)
    removed = [place for place, name in enumerate(names) if name not in new]
    facts = UpdateFacts(base=base.identity, result=result.identity[-4:], removed=tuple(removed))
    stays = not is_made_of_files(metadata) and _are_alike(base.held, new)
    own_metadata, own_files = (
        (_changed_metadata(base, metadata), []) if stays else _beside_tensors(base, metadata, files)
    )
    if base.files and not stays and not is_made_of_files(metadata):
        known["notes"] = (*known.get("notes", ()), LEFT_BEHIND)
    data = _smallest([*tied(changed), *own_files], own_metadata, coder, facts, against)
    return Update(
        data=data,
        file_bytes=len(data),
        base=base,
        changed=tuple(changed),
        unchanged=len(new) - len(changed),
        removed=tuple(names[place] for place in removed),
        **known,
    )


def _are_alike(held: Mapping[str, Held], new: Mapping[str, Held]) -> bool:
    """Whether tensors have the same names, types and shapes, so that they fit into the same files."""
    facts = [{name: (tensor.dtype, tensor.shape) for name, tensor in each.items()} for each in (held, new)]
    return facts[0] == facts[1]


def _changed_metadata(base: Model, metadata: Metadata) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if base.metadata.get(name) != value}


def _beside_tensors(
    base: Model, metadata: Metadata, files: Mapping[str, ExactTensor]
) -> tuple[Metadata, list[ExactTensor]]:
    """Metadata and carried files of an update: those that differ from the base's."""
    own = _changed_metadata(base, metadata)
    if not files and not base.files:
        return own, []
    # Without all of these keys, names of carried files mean nothing; the base's are not taken over.
    own |= {name: metadata[name] for name in KEYS & metadata.keys()}
    is_more = base.files.keys() <= files.keys()
    found = [file for file in files.values() if not (is_more and has_same(base.files, file))]
    return {**own, FILES: checksum_of(files)}, found


def _by_name(tensors: Sequence[Tensor], metadata: Metadata) -> tuple[dict[str, Held], dict[str, ExactTensor]]:
    """Tensors of the model, and carried files."""
    new: dict[str, Held] = {}
    files: dict[str, ExactTensor] = {}
    for tensor in tensors:
        holder = tensor.first if isinstance(tensor, TiedTensor) else tensor
        if is_carried(tensor.name, metadata) and isinstance(holder, ExactTensor):
            files[tensor.name] = holder
        else:
            new[tensor.name] = holder
    return new, files


def _result(base: Model, new: Mapping[str, Held], summed: Collection[str]) -> Model:
    """What the update gives."""
    held: dict[str, Held] = {}
    sums: dict[int, ExactTensor] = {}
    for name in sorted(new, key=str.encode):
        tensor = new[name]
        if name in summed:
            if id(tensor) not in sums:
                sums[id(tensor)] = added(tensor, base.elements[name].values)
            held[name] = sums[id(tensor)]
        else:
            held[name] = tensor
    return Model(held=held)


def _is_same(base: Model, result: Model, name: str) -> bool:
    """Whether a tensor is, bit for bit, as in the base."""
    old = base.elements.get(name)
    return old is not None and has_same({name: old}, result.elements[name])


def has_same(files: Mapping[str, ExactTensor], file: ExactTensor) -> bool:
    """Whether a tensor is among others by its name, the same bit for bit."""
    known = files.get(file.name)
    if known is None or (known.dtype, known.shape) != (file.dtype, file.shape):
        return False
    return bool(np.array_equal(known.bits(), file.bits()))


def _against(tensor: Held, old: ExactTensor | None, coder: str) -> Against | None:
    """What a tensor is told by, or None where it takes fewer bytes alone."""
    if old is None or (old.dtype, old.shape) != (tensor.dtype, tensor.shape) or not old.values.size:
        return None
    if isinstance(tensor, ExactTensor) and not has_differences(tensor.dtype):
        return None
    if isinstance(tensor, QuantizedTensor) and tensor.basis is not None:
        return None
    some, elements = _some(tensor, old)
    beside = container.encode([some], coder=coder, update=NOWHERE, against={some.name: Against(elements=elements)})
    alone = container.encode([some], coder=coder, update=NOWHERE)
    return Against(elements=old.values) if len(beside) < len(alone) else None


def _some(tensor: Held, old: ExactTensor) -> tuple[Held, Any]:
    """The first rows of a large tensor, and what the base has there."""
    if tensor.shape == () or old.values.size <= TRIED_ELEMENTS:
        return tensor, old.values
    rows = max(TRIED_ELEMENTS * tensor.shape[0] // old.values.size, 1)
    if isinstance(tensor, ExactTensor):
        return replace(tensor, values=tensor.values[:rows]), old.values[:rows]
    scales = tensor.scales and Scales(rows=tensor.scales.rows[:rows], columns=tensor.scales.columns)
    return replace(tensor, indices=tensor.indices[:rows], scales=scales), old.values[:rows]


def _smallest(
    tensors: Sequence[Tensor], metadata: Metadata, coder: str, facts: UpdateFacts, against: Mapping[str, Against]
) -> bytes:
    """The smaller one of two files: with tensors told by the base as chosen or, if there is little, all of them alone.

    What tensors have in common may tell more than the base does.
    """
    found = container.encode(tensors, metadata=metadata, coder=coder, update=facts, against=against)
    is_free = not any(each.is_sum for each in against.values())
    if against and is_free and sum(int(np.prod(tensor.shape)) for tensor in tensors) <= TRIED_ELEMENTS:
        alone = container.encode(tensors, metadata=metadata, coder=coder, update=facts)
        return min(found, alone, key=len)
    return found
