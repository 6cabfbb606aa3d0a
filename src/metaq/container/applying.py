"""A base and a chain of updates in, the model that they give out; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from metaq.config import require
from metaq.container.carried import FILES, KEYS, checksum, is_carried
from metaq.container.contents import File, Metadata
from metaq.container.fields import utf8
from metaq.container.reader import DEFAULT_MAX_BYTES, describe, read
from metaq.container.source import FileLike, name_of
from metaq.container.updates import identity
from metaq.errors import FormatError
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Tensor, TiedTensor

MAX_LINKS = 100
"""Updates of a chain."""

Held = QuantizedTensor | ExactTensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """All that a file would hold of a model, in memory: what updates are applied to, and what they give.

    `held` has every tensor by every of its names, in the order of these; tied ones are one object. `files` are carried
    files by name of the tensor, `metadata` those of the file, `origin` what to call it in messages. `missing_files`
    tells why the files are not known, if they are not: then there are tensors alone.
    """

    held: dict[str, Held]
    files: dict[str, ExactTensor] = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)
    origin: str = "the base"
    missing_files: str = ""

    @cached_property
    def elements(self) -> dict[str, ExactTensor]:
        """Every tensor restored, by name."""
        made: dict[int, ExactTensor] = {}
        for tensor in self.held.values():
            if id(tensor) not in made:
                made[id(tensor)] = ExactTensor(name=tensor.name, values=tensor.restore(), dtype=tensor.dtype)
        return {name: replace(made[id(tensor)], name=name) for name, tensor in self.held.items()}

    @cached_property
    def identity(self) -> bytes:
        """See :func:`metaq.container.updates.identity`."""
        return identity(self.elements.values())

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors as a file holds them, carried files too; raises :class:`FormatError` if these are not known."""
        if self.missing_files:
            raise FormatError(self.missing_files)
        return [*tied(self.held), *self.files.values()]

    @property
    def is_quantized(self) -> bool:
        """Whether any tensor is."""
        return any(isinstance(tensor, QuantizedTensor) for tensor in self.held.values())


BaseT = TypeVar("BaseT", bound=Base)


def tied(held: Mapping[str, Held]) -> list[Tensor]:
    """Tensors by their names, those that are one object tied."""
    firsts: dict[int, Held] = {}
    found: list[Tensor] = []
    for name, tensor in held.items():
        first = firsts.setdefault(id(tensor), replace(tensor, name=name))
        found.append(first if first.name == name else TiedTensor(name=name, first=first))
    return found


def parts_of(file: File) -> dict[str, Any]:
    """What a file holds, by names of the attributes of :class:`Base`."""
    held: dict[str, Held] = {}
    files: dict[str, ExactTensor] = {}
    for tensor in file.tensors:
        holder = tensor.first if isinstance(tensor, TiedTensor) else tensor
        if is_carried(tensor.name, file.metadata):
            files[tensor.name] = ExactTensor(name=tensor.name, values=holder.restore(), dtype=holder.dtype)
        else:
            held[tensor.name] = holder
    return {"held": held, "files": files, "metadata": file.metadata}


def applied(base: BaseT, updates: Sequence[FileLike], *, max_bytes: int = DEFAULT_MAX_BYTES) -> BaseT:
    """The model that a chain of updates makes of `base`, each of what the one before gives.

    Parameters
    ----------
    updates
        Their paths, bytes, or open binary files, at most ``MAX_LINKS``.
    max_bytes
        Memory that the tensors of one may take.

    Raises
    ------
    FormatError
        If a file is missing or damaged or is no update, or a link of the chain is missing: an update is of another
        model than it is applied to.
    """
    require(len(updates) <= MAX_LINKS, f"{len(updates)} updates: a chain has at most {MAX_LINKS}; apply some first.")
    model = base
    for number, update in enumerate(updates):
        model = _applied(model, update, number, max_bytes)
    return model


def _applied(model: BaseT, update: FileLike, number: int, max_bytes: int) -> BaseT:
    name = name_of(update)
    facts = describe(update).update
    if facts is None:
        raise FormatError(f"{name}: is no update but a model; apply updates alone, in their order.")
    if model.identity != facts.base:
        found = f"{model.origin if number == 0 else 'the model so far'} is the model {model.identity.hex()}"
        if model.identity[-len(facts.result) :] == facts.result:
            raise FormatError(f"{name}: has been applied already: {found}, which it gives; leave it out.")
        missing = "give the base that it was made of" if number == 0 else "an update between them may be missing"
        raise FormatError(f"{name}: is an update of the model {facts.base.hex()}, but {found}; {missing}.")
    names = list(model.held)
    if any(place >= len(names) for place in facts.removed):
        raise FormatError(f"{name}: removes tensor {facts.removed[-1]} of {len(names)}; get the file again.")
    file = read(update, base=model.elements, max_bytes=max_bytes)
    own = type(model)(**parts_of(file), origin=name)
    removed = {names[place] for place in facts.removed}
    held = {each: tensor for each, tensor in model.held.items() if each not in removed} | own.held
    held = {each: held[each] for each in sorted(held, key=utf8)}
    result = replace(_with_files(model, own), held=held)
    if result.identity[-len(facts.result) :] != facts.result:
        raise FormatError(f"{name}: gives another model than it says; the file was not made by metaq. Make it again.")
    return result


def _with_files(base: BaseT, update: BaseT) -> BaseT:
    """What travels with the result of an update beside its tensors; its own tensors alone are there."""
    metadata = {**base.metadata, **update.metadata}
    if FILES not in metadata:
        return replace(update, files=base.files, metadata=metadata, missing_files=base.missing_files)
    wanted = metadata.pop(FILES)
    metadata = {key: value for key, value in metadata.items() if key not in KEYS or key in update.metadata}
    for files in (base.files | update.files, update.files):
        if checksum_of(files) == wanted:
            return replace(update, files=files, metadata=metadata)
    missing = (
        f"{update.origin}: the base that is given has other files beside its tensors than the one that the update was "
        "made of; give that, or write the tensors alone, as .safetensors."
    )
    return replace(update, files={}, metadata=metadata, missing_files=missing)


def checksum_of(files: Mapping[str, ExactTensor]) -> int:
    """See :func:`metaq.container.carried.checksum`."""
    return checksum({name: file.values.tobytes() for name, file in files.items()})
