"""Where in a checkpoint the weights are: the state dict, or the module, among all that a training script keeps."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from metaq.errors import FormatError
from metaq.model.formats.torch_names import part_of
from metaq.model.formats.torch_objects import AnyTensor, OtherTensor, StridedTensor, tensor_of, unstorable
from metaq.model.formats.torch_walk import (
    MOST_CHARACTERS,
    MOST_VISITED,
    counted,
    described,
    is_module,
    is_optimizer_state,
    mapping_of,
    module_children,
    type_name,
    walk,
)
from metaq.model.formats.unpickling import Placeholder

KNOWN = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
"""Keys under which training scripts commonly keep the weights, the most telling first."""

AVERAGE = re.compile(r"(?:^|[^a-z])(?:ema|swa|averaged?|shadow)(?:$|[^a-z])", re.IGNORECASE)
NO_PART = re.compile(r"optimi[sz]er|random_state|(?:^|[^a-z])rng(?:$|[^a-z])", re.IGNORECASE)
"""Keys of what is no part of a model where it lies among its parts."""

NO_WEIGHTS = re.compile(r"optim|sched|scaler|random_state|(?:^|[^a-z])(?:opt|rng)(?:$|[^a-z])", re.IGNORECASE)
EXTRA_STATE = "_extra_state"
"""What modules keep beside tensors, by the end of its name."""

MOST_LEVELS = 8
LEAST_SHARE = 0.5
"""Of the values of a state dict that are tensors."""

LEAST_OF_LARGEST = 100
"""What has less than one part in so many of the bytes of the largest candidate is none."""

LEAST_BESIDE = 10
"""Where a dict holds tensors and dicts of tensors, either is no model if it has less than one part in so many of the
bytes of the other; a known name makes it one nevertheless, unless the tensors are those of a module by their names.
"""

OF_LAYERS = (".weight", ".bias")
"""Ends of names that tell tensors of a module."""

TOGETHER = "names of tensors begin with the keys of the dicts that they are in"
LEVEL, LINE = "\t", "\n"
"""Between the keys on the way to one part, and between parts, where they are written down."""

JOINED = f"{TOGETHER}; with --keep-all, these dicts come back"

TOP = "."
"""The key of tensors that no key leads to."""

MOST_LISTED = 12
MOST_MODELS = 1000
"""What holds more values that hold others are data."""

CONTAINERS = (dict, list, tuple, Placeholder)


class SameNameError(Exception):
    """Tensors that are taken together would have the same name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StateDict:
    """Tensors that belong together, by their names, and their size; `others` are what is among them and no tensor.

    `path` has the keys on the way to them; it `is_joined` of several, whose keys begin the names. These are its
    `parts`, each with :data:`LEVEL` between its keys, where they tell which name belongs to which.
    """

    tensors: Mapping[str, AnyTensor]
    size_bytes: int
    others: Mapping[str, object] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    is_module: bool = False
    is_joined: bool = False
    parts: tuple[str, ...] = ()

    @property
    def is_average(self) -> bool:
        """Whether it is an average of the weights, by its name."""
        return any(AVERAGE.search(key) for key in self.path)

    @property
    def rank(self) -> tuple[int, int]:
        """Less for what is rather the weights, by its name."""
        ranks = [KNOWN.index(key) for key in reversed(self.path) if key in KNOWN]
        return (ranks[0], len(self.path)) if ranks else (len(KNOWN) if self.path else -1, 0)

    @property
    def key(self) -> str:
        """What chooses it."""
        return ".".join(self.path) or TOP


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The weights of a checkpoint by their names, the keys on the way to them, those of the dicts that were taken
    together, and what there is beside them.
    """

    weights: Mapping[str, AnyTensor]
    others: Mapping[str, object] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find(path: Path, top: object, key: str | None) -> Found:
    """The weights that a checkpoint holds under a key, or that by their names and sizes are the ones.

    Tensors under a key of :data:`KNOWN` go before such as lie beside that key, whatever their sizes. The key
    :data:`TOP` chooses the latter.

    Raises :class:`FormatError` if there are none, or several of which none is more likely.
    """
    if key is not None:
        return _found(top, [_under_key(path, top, key)], ())
    candidates = _Search(LEAST_SHARE).candidates(top, ())
    if not candidates:
        check_storable(path, top)
        candidates = _Search(0).candidates(top, ())
    if not candidates:
        raise _no_weights(path, top)
    pool = _likeliest(candidates)
    if len(pool) > 1:
        names = ", ".join(
            f"{c.key!r} ({counted(len(c.tensors))}{'' if c.path else ' at the top'})" for c in pool[:MOST_LISTED]
        )
        more = ", …" if len(pool) > MOST_LISTED else ""
        raise FormatError(f"{path}: holds several models: {names}{more}; choose one by --key.")
    return _found(top, pool, candidates)


def find_all(path: Path, top: object, key: str | None) -> Found:
    """The weights of a checkpoint that is kept whole: of several that are as likely all, and there may be none."""
    if key is not None:
        return find(path, top, key)
    candidates = _Search(LEAST_SHARE).candidates(top, ()) or _Search(0).candidates(top, ())
    return _found(top, _likeliest(candidates), candidates)


def check_storable(path: Path, top: object) -> None:
    """Quantised modules, too, keep their weights in tuples."""
    for name, tensor in walk(top, seen=set()):
        if isinstance(tensor, OtherTensor):
            raise unstorable(path, name, tensor)


def _likeliest(candidates: Sequence[StateDict]) -> list[StateDict]:
    largest = max((candidate.size_bytes for candidate in candidates), default=0)
    pool = [candidate for candidate in candidates if candidate.size_bytes * LEAST_OF_LARGEST >= largest]
    pool = [candidate for candidate in pool if not candidate.is_average] or pool
    best = min((candidate.rank for candidate in pool), default=None)
    chosen = [candidate.path for candidate in pool if candidate.rank == best]
    # What lies beside tensors, in the same dict, is no less likely than they are.
    return [candidate for candidate in pool if any(candidate.path[: len(path)] == path for path in chosen)]


def _rivals(tensors: StateDict, beside: Sequence[StateDict]) -> Sequence[StateDict]:
    """Of the tensors in a dict and the candidates beside them those that may be the weights."""
    telling = [each for each in beside if tensors.is_average or not each.is_average]
    large = [each for each in telling if each.size_bytes * LEAST_BESIDE >= tensors.size_bytes]
    named = large if any(name.endswith(OF_LAYERS) for name in tensors.tensors) else telling
    is_known = any(key in KNOWN for each in named for key in each.path[len(tensors.path) :])
    if is_known or any(each.size_bytes > tensors.size_bytes * LEAST_BESIDE for each in large):
        return beside
    return [tensors, *(each for each in beside if each in large or each not in telling)]


class _Search:
    """Looks for state dicts in which tensors make up a share of the values."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.known: dict[int, StateDict | None] = {}
        self.visited: set[int] = set()
        self.budget = iter(range(MOST_VISITED))

    def candidates(self, value: object, path: tuple[str, ...]) -> list[StateDict]:
        """State dicts within a value, within each other only where names and sizes do not tell which is meant."""
        found = self.state_dict(value, len(path))
        alone = [] if found is None else [replace(found, path=path)]
        is_end = id(value) in self.visited or len(path) == MOST_LEVELS or is_optimizer_state(value)
        if is_end or (found is not None and found.is_module):
            return alone
        parts = dict(_entries(value))
        containers = {
            name: child
            for name, child in parts.items()
            if isinstance(child, CONTAINERS) and tensor_of(child) is None and not name.endswith(EXTRA_STATE)
        }
        is_model = bool(path) and _is_model(path[-1])
        self.visited.add(id(value))
        if len(containers) > MOST_MODELS or len(self.visited) > MOST_VISITED:
            return alone
        inner = [
            candidate
            for name, child in containers.items()
            if not (_is_no_part if is_model else _is_no_weights)(name, child)
            for candidate in self.candidates(child, (*path, name))
        ]
        has_models = any(_is_model(key) for candidate in inner for key in candidate.path[len(path) :])
        if is_model and not alone and len(inner) > 1 and not has_models:
            return [replace(_Parts(value, leaves_out=_is_no_part).together(), path=path)]
        return [*_rivals(alone[0], inner)] if alone else inner

    def state_dict(self, value: object, level: int) -> StateDict | None:
        """The state dict or module that a value is, if it is one."""
        if id(value) not in self.known:
            self.known[id(value)] = None
            self.known[id(value)] = self._state_dict(value, level)
        return self.known[id(value)]

    def _state_dict(self, value: object, level: int) -> StateDict | None:
        tensor = tensor_of(value)
        if tensor is not None:
            return _state_dict({"0": tensor}) if not level else None
        if is_module(value):
            tensors = _tensors(walk(value, module_children, budget=self.budget))
            return _state_dict(tensors, is_module=True) if tensors else None
        parts = dict(_entries(value))
        tensors = {name: tensor for name, child in parts.items() if (tensor := tensor_of(child)) is not None}
        others = {name: child for name, child in parts.items() if name not in tensors}
        if (isinstance(value, list | tuple) and others) or (isinstance(value, tuple) and level):
            return None
        counting = [name for name, child in others.items() if child is not None and not name.endswith(EXTRA_STATE)]
        if not tensors or len(tensors) < self.share * (len(tensors) + len(counting)):
            return None
        return _state_dict(tensors, others=others)


def _state_dict(tensors: dict[str, AnyTensor], **options: Any) -> StateDict:
    size_bytes = sum(tensor.size_bytes for tensor in tensors.values() if isinstance(tensor, StridedTensor))
    return StateDict(tensors=tensors, size_bytes=size_bytes, **options)


def _joined(parts: Sequence[StateDict]) -> StateDict:
    """Several as one; their paths begin the names."""
    if sum(len(part.tensors) + len(part.others) for part in parts) > MOST_VISITED:
        raise UnpicklingError("it repeats its state dicts too often")
    prefixed = [(".".join((*part.path, "")), part) for part in parts]
    tensors = _tensors((prefix + name, tensor) for prefix, part in prefixed for name, tensor in part.tensors.items())
    others = {prefix + name: value for prefix, part in prefixed for name, value in part.others.items()}
    return _state_dict(tensors, others=others, is_joined=True)


class _Parts:
    """All tensors within a value, whose names begin with the keys of the dicts that they are in, and what is none."""

    def __init__(self, value: object, leaves_out: Callable[[str, object], bool]) -> None:
        self._leaves_out = leaves_out
        self._budget = iter(range(MOST_VISITED))
        self._tensors: list[tuple[str, AnyTensor]] = []
        self._owners: list[tuple[str, ...]] = []
        self._others: list[tuple[str, object]] = []
        self._add(value, ())

    def together(self) -> StateDict:
        """What all tensors are together, and their parts."""
        tensors = _tensors(self._tensors)
        parts = dict.fromkeys(LEVEL.join(owner) for owner in self._owners if owner)
        owners = {LEVEL.join(owner).replace(LEVEL, "."): owner for owner in self._owners}
        is_told = all(key and LEVEL not in key and LINE not in key for owner in set(self._owners) for key in owner)
        is_told &= len(owners) == len(set(self._owners))
        is_told &= all(
            owners.get(part_of(name, owners), ()) == owner
            for (name, _), owner in zip(self._tensors, self._owners, strict=True)
        )
        return _state_dict(tensors, others=dict(self._others), is_joined=True, parts=tuple(parts) if is_told else ())

    def _add(self, value: object, keys: tuple[str, ...]) -> None:
        for name, child in _entries(value):
            if next(self._budget, None) is None:
                raise UnpicklingError("it repeats its state dicts too often")
            place, tensor = (*keys, name), tensor_of(child)
            if tensor is not None:
                self._take([(".".join(place), tensor)], keys)
                continue
            number, others = len(self._tensors), len(self._others)
            if is_module(child):
                found = walk(child, module_children, budget=self._budget)
                self._take([(".".join((*place, inner)), held) for inner, held in found], place)
            elif isinstance(child, CONTAINERS) and len(keys) < MOST_LEVELS and not self._leaves_out(name, child):
                self._add(child, place)
            if len(self._tensors) == number:
                self._others[others:] = [(".".join(place), child)]

    def _take(self, found: Iterable[tuple[str, object]], keys: tuple[str, ...]) -> None:
        own = [(name, tensor) for name, value in found if (tensor := tensor_of(value)) is not None]
        self._tensors += own
        self._owners += [keys] * len(own)


def _tensors(found: Iterable[tuple[str, object]]) -> dict[str, AnyTensor]:
    pairs = [(name, tensor) for name, value in found if (tensor := tensor_of(value)) is not None]
    if sum(len(name) for name, _ in pairs) > MOST_CHARACTERS:
        raise UnpicklingError("the names of its tensors are too long")
    tensors = dict(pairs)
    if len(tensors) < len(pairs):
        name = next(name for name, number in Counter(name for name, _ in pairs).items() if number > 1)
        raise SameNameError(f"two of its tensors would be called {name!r}; choose one dict by --key, or use --lossless")
    return tensors


def _entries(value: object) -> Iterator[tuple[str, object]]:
    """Entries of a dict, attributes of an object or elements of a list."""
    entries = mapping_of(value)
    if entries is not None:
        yield from entries.items()
    elif isinstance(value, list | tuple):
        yield from ((str(position), child) for position, child in enumerate(value))


def _is_model(key: str) -> bool:
    """Whether what is under a key is a model, or an average of one, by its name."""
    return key in KNOWN or AVERAGE.search(key) is not None


def _is_no_part(name: str, value: object) -> bool:
    return bool(NO_PART.search(name)) or is_optimizer_state(value)


def _is_no_weights(name: str, value: object) -> bool:
    return bool(NO_WEIGHTS.search(name)) or is_optimizer_state(value)


def _under_key(path: Path, top: object, key: str) -> StateDict:
    value, keys = _at(top, key)
    if keys is None and key == TOP:
        value, keys = top, ()
        found = _Search(0).state_dict(top, 0)
    elif keys is None:
        names = [name for name, _ in _entries(top)]
        listed = ", ".join(map(repr, names[:MOST_LISTED])) + (", …" if len(names) > MOST_LISTED else "")
        raise FormatError(f"{path}: has nothing under {key!r}; it has {listed or 'no keys at all'}.")
    else:
        pool = _likeliest(_Search(LEAST_SHARE).candidates(value, ()))
        is_one = len(pool) == 1 and not pool[0].path
        found = pool[0] if is_one else _all_under(value)
    if found is None or not found.tensors:
        raise FormatError(f"{path}: holds no tensors under {key!r}; choose another --key.")
    return replace(found, path=keys)


def _all_under(value: object) -> StateDict:
    """All tensors within a value, whatever it is, and their parts if dicts and modules have them all."""
    everything = _tensors(walk(value))
    parts = _Parts(value, leaves_out=lambda *_: False).together()
    return parts if parts.tensors.keys() == everything.keys() else _state_dict(everything, is_joined=True)


def _at(value: object, key: str) -> tuple[object, tuple[str, ...] | None]:
    """The value under keys that are joined by dots, which keys may hold too, and the keys."""
    for name, child in _entries(value):
        if name == key:
            return child, (name,)
        if key.startswith(f"{name}.") and name:
            found, keys = _at(child, key[len(name) + 1 :])
            if keys is not None:
                return found, (name, *keys)
    return None, None


def _no_weights(path: Path, top: object) -> FormatError:
    has_tensors = any(walk(top, seen=set()))
    if is_optimizer_state(top) or (has_tensors and any(_is_no_weights(*entry) for entry in _entries(top))):
        return FormatError(f"{path}: holds the state of an optimizer and no weights; give the file of the weights.")
    if not has_tensors:
        return FormatError(f"{path}: holds no tensors, only a {type_name(top)}; save model.state_dict().")
    return FormatError(f"{path}: holds tensors without names; save model.state_dict().")


def _found(top: object, chosen: Sequence[StateDict], candidates: Sequence[StateDict]) -> Found:
    if len(chosen) != 1:
        together = _joined(chosen)
        names = ", ".join(f"'{c.key}'" for c in chosen)
        notes = (f"weights were found under {names}",) if names else ()
        return Found(weights=together.tensors, others=together.others, notes=notes)
    one = chosen[0]
    left_out = dict(_beside(top, one.path))
    seen: set[int] = set()
    for name, value in one.others.items():
        # What an entry is called may be what one beside the state dict is called.
        known = ".".join((*one.path, name)) if name in left_out else name
        left_out[known] = f"not a tensor but {described(value, seen)}"
    return Found(
        weights=one.tensors,
        others=one.others,
        key=one.path,
        parts=one.parts,
        left_out=left_out,
        notes=tuple(_notes(top, one, candidates)),
    )


def _beside(top: object, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What there is beside the keys of a path, and what it is."""
    seen: set[int] = set()
    value: object = top
    for level, key in enumerate(path):
        parts = dict(_entries(value))
        for name, child in parts.items():
            if name != key:
                yield ".".join((*path[:level], name)), described(child, seen)
        value = parts[key]


def _notes(top: object, one: StateDict, candidates: Sequence[StateDict]) -> Iterator[str]:
    if one.path:
        yield f"weights were found under '{one.key}'"
    if one.is_joined:
        yield TOGETHER if one.parts else JOINED
    if one.is_module:
        yield "holds a whole module; its weights are taken, its code is not run"
    if not one.path and (isinstance(top, list | tuple) or tensor_of(top) is not None):
        yield "holds tensors without names; they are named by their positions"
    for other in candidates:
        if other.is_average and not one.is_average:
            yield f"an average of the weights lies under '{other.key}'; --key {other.key} takes that one"
