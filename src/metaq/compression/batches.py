"""Calibration data as people have it, made into batches that a module can be called with."""

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset, IterableDataset

from metaq.compression.inputs import batch_size
from metaq.compression.quality import parted
from metaq.config import require
from metaq.entropy.passes.grids import CPU
from metaq.errors import ConfigError, MetaqError
from metaq.model.evaluating import evaluating
from metaq.quantize.curvature import Batch, call
from metaq.quantize.outputs import floating_tensors

LABELS = frozenset(("label", "labels", "label_ids", "target", "targets", "y"))
"""Arguments that are left out where a module does not take them."""

MOST_BYTES = 2 << 30
"""What is kept of batches that are made while they are read, such as those of a data loader: some may never end."""

_LOGGER = logging.getLogger(__name__)


def prepared(module: nn.Module, batches: Iterable[object], *, is_whole: bool = False) -> list[Batch]:
    """Batches that `module` takes, read once and kept; it has been run on the first of them, and of every other shape.

    Parameters
    ----------
    module
        Run in evaluation mode, and left as it was.
    batches
        A data loader, list or generator of tensors, of tuples or lists of positional arguments, or of mappings of
        keyword arguments; a single mapping; or a single tensor, whose first dimension is that of samples. Arrays of
        numpy stand for tensors, and get the type of the module's weights if they are floating. Tensors are moved to
        the module's device. Parts of a tuple are left out for which there is no argument, or without which alone the
        module can be run; so are labels in a mapping, or beside one. Of a loader or generator no more is read than
        :data:`MOST_BYTES`, which is logged as a warning; lists are in memory already.
    is_whole
        Whether a single tensor is one batch, instead of cut into some.

    Raises
    ------
    ConfigError
        If they are none of these, or the module cannot be run on them.
    """
    weight = next(module.parameters(), torch.zeros(0, device=CPU))
    places = {parameter.device for parameter in module.parameters()}
    found = list(_read(batches, weight, places, is_whole=is_whole))
    require(bool(found), "batches: there is no batch; give at least one, and a generator that was not read yet.")
    takes = _Arguments.of(module)
    ways = [takes.fitted]
    if _parts(takes.fitted(found[0])) != _parts(takes.narrowed().fitted(found[0])):
        ways.append(takes.narrowed().fitted)
    if isinstance(found[0], list):
        ways.append(_as_one)
    errors: list[Exception] = []
    for way in ways:
        try:
            with evaluating(module), torch.no_grad():
                outputs = floating_tensors(call(module, way(found[0])))
        except MetaqError:
            raise
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        else:
            is_usable = not outputs or any(bool(tensor.isfinite().any()) for tensor in outputs)
            require(
                is_usable,
                "batches: all outputs for the first are NaN or infinite; repair the weights or the inputs.",
            )
            made = [way(batch) for batch in found]
            _try_others(module, made)
            return made
    # That arguments are too many or too few says less than what is wrong with one of them.
    first = min(errors, key=lambda each: isinstance(each, TypeError))
    raise ConfigError(
        f"batches: the model cannot be run on the first, {_described(found[0])}; its weights are "
        f"{_type_of(weight)} on {weight.device}{takes.told()} ({_told(first)})."
    ) from first


def _try_others(module: nn.Module, batches: Sequence[Batch]) -> None:
    """Run the module on a batch of every shape but that of the first, whatever the numbers of samples."""
    tried = {_shapes(batches[0])}
    with evaluating(module), torch.no_grad():
        for number, batch in enumerate(batches[1:], 2):
            shapes = _shapes(batch)
            if shapes in tried:
                continue
            tried.add(shapes)
            try:
                call(module, batch)
            except MetaqError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"batches: the model can be run on the first, {_described(batches[0])}, but not on number "
                    f"{number}, {_described(batch)} ({_told(error)}); give others, or leave it out."
                ) from error


def held_out(module: nn.Module, batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Batches that calibrate, and others: see :func:`~metaq.compression.quality.parted`.

    Raises :class:`ConfigError` if there is one, and `module` cannot be run on some of its samples.
    """
    calibrating, others = parted(batches)
    if len(batches) > 1:
        return calibrating, others
    try:
        with evaluating(module), torch.no_grad():
            call(module, calibrating[0])
    except MetaqError:
        raise
    except Exception as error:
        raise ConfigError(
            f"batches: there is one, {_described(batches[0])}, and the model cannot be run on some of its samples "
            f"alone, of which some are held out ({_told(error)}); give several batches."
        ) from error
    return calibrating, others


def _shapes(part: object) -> object:
    """What has to be the same for two batches to be of one kind: types, and sizes but the first."""
    if isinstance(part, torch.Tensor):
        return part.dtype, part.shape[1:]
    if isinstance(part, Mapping):
        return tuple((name, _shapes(value)) for name, value in part.items())
    if isinstance(part, tuple | list):
        return tuple(map(_shapes, part))
    return type(part)


def _told(error: Exception) -> str:
    """The first line of what an error says."""
    reason = (str(error).splitlines() or [""])[0].rstrip(" .:")
    return f"{type(error).__name__}: {reason}"


def _read(
    batches: Iterable[object], weight: torch.Tensor, places: set[torch.device], *, is_whole: bool
) -> Iterator[Any]:
    """Batches with tensors for arrays, as many as may be kept."""
    kept = 0
    for number, each in enumerate(_each(batches, is_whole=is_whole), 1):
        batch = _moved(_without_labels(each), weight, places)
        require(not _is_empty(batch), f"batches: number {number}, {_described(batch)}, has no samples; leave it out.")
        yield batch
        kept += _bytes_of(batch)
        if kept > MOST_BYTES and not isinstance(batches, Sequence | torch.Tensor | np.ndarray):
            _LOGGER.warning("batches: %d of them take %s bytes, and no more are read; give fewer.", number, f"{kept:,}")
            return


def _is_empty(batch: object) -> bool:
    """Whether there are tensors, and none has an element."""
    parts = (
        list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    )
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    return bool(tensors) and not any(tensor.numel() for tensor in tensors)


def _bytes_of(batch: object) -> int:
    """What its tensors take."""
    if isinstance(batch, Mapping):
        return sum(map(_bytes_of, batch.values()))
    if isinstance(batch, tuple | list):
        return sum(map(_bytes_of, batch))
    return batch.nbytes if isinstance(batch, torch.Tensor) else 0


def _each(batches: Iterable[object], *, is_whole: bool) -> Iterator[object]:
    """Every batch as it was given, the samples of a single tensor some at once."""
    if isinstance(batches, torch.Tensor | np.ndarray):
        require(batches.ndim > 0, "batches: a single number is none; the first dimension has to be that of samples.")
        size = len(batches) if is_whole else batch_size(len(batches))
        return (batches[start : start + size] for start in range(0, len(batches), max(size, 1)))
    if isinstance(batches, Mapping):
        return iter([batches])
    require(
        not isinstance(batches, Dataset) or isinstance(batches, IterableDataset),
        "batches: a dataset has single samples; give a DataLoader of it.",
    )
    try:
        return iter(batches)
    except TypeError as error:
        raise ConfigError(
            f"batches: a {type(batches).__name__} is none; give a data loader, a list of batches, or a tensor."
        ) from error


def _moved(part: Any, weight: torch.Tensor, places: set[torch.device]) -> Any:
    """The same with tensors for arrays, on the device of `weight` unless they are on one of the `places`."""
    if isinstance(part, Mapping):
        return {name: _moved(value, weight, places) for name, value in part.items()}
    if type(part) in (tuple, list):
        return type(part)(_moved(value, weight, places) for value in part)
    if isinstance(part, np.ndarray) and part.dtype.kind in "fiub":
        # A copy in the order of bytes and elements that PyTorch takes, whatever the array's is.
        own = torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("="), order="C"))
        part = own.to(weight.dtype) if own.is_floating_point() and weight.is_floating_point() else own
    if isinstance(part, torch.Tensor) and part.is_inference() and not torch.is_inference_mode_enabled():
        # Layers cannot keep it for their gradients.
        part = part.clone()
    if isinstance(part, torch.Tensor) and part.device not in places:
        return part if "meta" in (part.device.type, weight.device.type) else part.to(weight.device)
    return part


def _without_labels(given: Any) -> Any:
    """A batch that is a mapping with labels beside it, as the mapping alone; any other as it is."""
    return given[0] if isinstance(given, tuple | list) and given and isinstance(given[0], Mapping) else given


def _as_one(batch: Any) -> Batch:
    """A list as a single argument."""
    return (batch,)


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """What a module takes: names of its arguments, whether also others by name, and how many by position, if
    there is a limit.
    """

    names: tuple[str, ...]
    takes_others: bool
    least: int
    most: int | None

    @classmethod
    def of(cls, module: nn.Module) -> "_Arguments":
        """Arguments of ``forward``. Those that are optional and no tensor by default take none."""
        try:
            parameters = inspect.signature(module.forward).parameters.values()
        except ValueError:
            # A traced module does not tell.
            return cls(names=(), takes_others=True, least=1, most=None)
        by_position = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        required = [each for each in by_position if each.default is each.empty]
        tensors = [
            each for each in by_position[len(required) :] if not isinstance(each.default, bool | int | str | float)
        ]
        has_any = any(each.kind is each.VAR_POSITIONAL for each in parameters)
        by_name = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        return cls(
            names=tuple(by_name),
            takes_others=any(each.kind is each.VAR_KEYWORD for each in parameters),
            least=len(required),
            most=None if has_any else len(required) + len(tensors),
        )

    def narrowed(self) -> "_Arguments":
        """Those alone that it must have or names: it may take labels in its way, or not tell what it takes."""
        return replace(self, takes_others=False, most=max(self.least, 1))

    def fitted(self, batch: Any) -> Batch:
        """The batch without what the module does not take."""
        if isinstance(batch, PackedSequence):
            return _as_one(batch)
        if isinstance(batch, tuple | list):
            return tuple(batch[: self.most])
        if not isinstance(batch, Mapping):
            return cast(Batch, batch)
        if self.names and not self.takes_others and not set(batch) & set(self.names):
            # The module takes the mapping itself.
            return _as_one(batch)
        return {name: value for name, value in batch.items() if self._takes(name, value)}

    def _takes(self, name: str, value: object) -> bool:
        # Other tensors that it does not know may be misspelt, and are not left out in silence.
        is_label = name in LABELS or not isinstance(value, torch.Tensor)
        return name in self.names or self.takes_others or not is_label

    def told(self) -> str:
        """Their names, for a sentence."""
        return f", and it takes {', '.join(self.names)}" if self.names else ""


def _parts(batch: Batch) -> object:
    """What tells two forms of a batch apart."""
    return len(batch) if isinstance(batch, tuple) else set(batch) if isinstance(batch, Mapping) else None


def _described(part: object) -> str:
    if isinstance(part, torch.Tensor):
        place = "" if part.device.type == "cpu" else f" on {part.device}"
        return f"{_type_of(part)} of shape {tuple(part.shape)}{place}"
    if isinstance(part, Mapping):
        return ", ".join(f"{name}: {_described(value)}" for name, value in part.items())
    if isinstance(part, tuple | list):
        return f"({', '.join(map(_described, part))})"
    return f"a {type(part).__name__}"


def _type_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
