"""Which tensors of a model are quantised, and why the others are not: one rule for whatever the model is."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from metaq.config import require
from metaq.container.layout import grid_fits
from metaq.model.opened import OpenedModel
from metaq.model.weights import ANY, TOO_SMALL, FilterFn, choose, is_default, is_too_small
from metaq.tensors.grid import BucketGrid, TrainedGrids

RUNNING_STATISTICS = ("running_mean", "running_var")
"""Last parts of the names under which batch normalisation keeps its running statistics."""

SINGULAR_VECTORS = ("_u", "_v")
"""Ends of the names under which spectral normalisation keeps its estimates of singular vectors."""

TABLES = ("inv_freq", "original_inv_freq", "masked_bias")
"""Last parts of the names of tables that no training changes."""

SCALES = re.compile(
    r"(.*_)?(scales?|scale_inv|shift|zeros?|zero_points?|absmax|quant_map|scb|code|codebooks?|lut|centroids)",
    re.IGNORECASE,
)
"""Last parts of the names of what turns packed integers, or floats of eight bits, into weights."""

FEWEST_PACKED = 16
"""Integers of fewer elements are counters, not packed weights."""

NO_GRID = "no grid was given"
LOSSLESS = "all are kept bit for bit"
BATCH_STATISTICS = "running statistics of batch normalisation"
BUFFER = "buffer"
SCALE = "turns integers or floats of eight bits into weights"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Tensors to quantise if their values allow it, tied ones by one name; and why not the others, by every name."""

    names: tuple[str, ...]
    reasons: Mapping[str, str]


def select(
    model: OpenedModel,
    *,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
) -> Selection:
    """The floating tensors that the rules choose.

    Kept exactly are buffers, which only a module tells; what is a buffer or a table by its name; what dequantises
    packed weights; and, unless `include` or `filter_fn` say what to quantise, tensors too small to pay.

    `include` and `exclude` are name globs: a tied tensor is included by any of its names, and excluded by any.
    `filter_fn` is called once for every floating tensor that the globs leave, with its first name and the tensor, which
    has no values where they lie in a file. Raises :class:`ConfigError` if a glob matches no tensor, or the rules leave
    nothing of what could be quantised.
    """
    reasons = _reasons(model)
    is_plain = is_default(include, filter_fn)
    if is_plain and not exclude and reasons.keys() == model.holders.keys():
        return Selection(names=(), reasons=reasons)
    chosen, why = choose(model.shown, reasons, include=include, exclude=exclude, filter_fn=filter_fn)
    tensors = {name: model.tensor(name) for name in chosen}
    small = {name for name, tensor in tensors.items() if is_plain and is_too_small(tensor.count, tensor.size_bytes)}
    too_small = {name: TOO_SMALL for name in model.holders if model.first(name) in small}
    return Selection(names=tuple(name for name in chosen if name not in small), reasons={**why, **too_small})


def fitted_grids(model: OpenedModel, grids: Mapping[str, BucketGrid]) -> Mapping[str, BucketGrid]:
    """`grids` by names of the model, where they are by those of its module: wrappers of it, and adapters in it, have
    a part more in their names.

    A name that the model does not have is taken for the only one of it that has one part less, or more.
    """
    unknown = [name for name in grids if name not in model.holders]
    if not unknown:
        return grids
    shorter = _by_shorter_names(model.holders)
    known: dict[str, str] = {}
    for name in unknown:
        found = {short for short in _shorter_names(name) if short in model.holders} | set(shorter.get(name, ()))
        if len(found - grids.keys()) == 1:
            known[name] = (found - grids.keys()).pop()
    if len(set(known.values())) < len(known):
        return grids
    fitted = {known.get(name, name): grid for name, grid in grids.items()}
    return TrainedGrids(fitted) if isinstance(grids, TrainedGrids) else fitted


def _by_shorter_names(names: Iterable[str]) -> dict[str, list[str]]:
    """Of all names those that one part less makes the key."""
    found: dict[str, list[str]] = {}
    for name in names:
        for short in _shorter_names(name):
            found.setdefault(short, []).append(name)
    return found


def _shorter_names(name: str) -> set[str]:
    """A name without one of its parts; the last one says what a tensor is and stays."""
    parts = name.split(".")
    return {".".join(parts[:place] + parts[place + 1 :]) for place in range(len(parts) - 1)}


def select_gridded(model: OpenedModel, grids: Mapping[str, BucketGrid]) -> Selection:
    """The tensors for which a grid is given, by any of their names; raises :class:`ConfigError` if one names no
    floating tensor, does not fit its type, or is another than that of a tied tensor.
    """
    found: dict[str, tuple[str, BucketGrid]] = {}
    for name, grid in grids.items():
        require(name in model.holders, f"{name}: a grid is given for it but there is no such tensor.")
        tensor = model.tensor(name)
        require(
            tensor.dtype.is_quantizable and tensor.count > 0,
            f"{name}: a grid is given for it, but it is {'empty' if not tensor.count else tensor.dtype.kind}.",
        )
        require(grid_fits(grid, tensor.dtype), f"{name}: its grid reaches beyond the largest {tensor.dtype.name}.")
        other, known = found.setdefault(model.first(name), (name, grid))
        require(known == grid, f"{name}: has another grid than {other}, to which it is tied; give one of them.")
    reasons = {name: NO_GRID for name in model.holders if model.first(name) not in found}
    frozen = dict.fromkeys(model.frozen & reasons.keys(), f"frozen, {NO_GRID}")
    return Selection(names=tuple(found), reasons={**reasons, **frozen, **_reasons(model)})


def _reasons(model: OpenedModel) -> dict[str, str]:
    """Why tensors can only be stored exactly, or must be, whatever the rules say; by every name."""
    packed = [
        name
        for name in model.holders
        if (tensor := model.tensor(name)).count >= FEWEST_PACKED
        and (tensor.dtype.kind == "integer" or tensor.dtype.is_float8)
    ]
    reasons = {}
    for name in model.holders:
        tensor = model.tensor(name)
        if not tensor.count:
            reason: str | None = "empty"
        elif name in model.reasons:
            reason = model.reasons[name]
        elif not tensor.dtype.is_quantizable:
            reason = tensor.dtype.kind
        elif not tensor.dtype.is_float8 and _dequantizes(name, packed):
            reason = SCALE
        else:
            reason = kind_of_buffer(name, model.holders) or (BUFFER if name in model.buffers else None)
        if reason is not None:
            reasons[name] = reason
    return reasons


def _dequantizes(name: str, packed: Iterable[str]) -> bool:
    """Whether a tensor is by its name a scale or a code book of one of the `packed` tensors."""
    parent, _, last = name.rpartition(".")
    is_scale = SCALES.fullmatch(last) is not None
    return any(
        name.startswith((f"{other}.", f"{other}_")) or (is_scale and other.rpartition(".")[0] == parent)
        for other in packed
    )


def kind_of_buffer(name: str, names: Container[str]) -> str | None:
    """What a tensor of a model with these `names` is by its name, if that tells that it is no weight."""
    if name.rpartition(".")[2] in RUNNING_STATISTICS:
        return BATCH_STATISTICS
    if name.rpartition(".")[2] in TABLES:
        return "table that no training changes"
    if name.endswith(SINGULAR_VECTORS):
        stem = name.removesuffix(name[-2:])
        # The second is the older way, torch.nn.utils.spectral_norm.
        if ".parametrizations." in f".{name}" or f"{stem}_orig" in names:
            return "vectors of spectral normalisation"
    return None
