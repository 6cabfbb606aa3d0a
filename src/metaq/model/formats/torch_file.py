"""Whatever :func:`torch.save`, :func:`torch.jit.save` or :func:`torch.export.save` wrote, and pickles like it.

Nothing in a file is executed, and of the tensors only those are read that do not lie in it as they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

from metaq.container.carried import BESIDE
from metaq.errors import FormatError
from metaq.model.formats import torch_export, torch_legacy
from metaq.model.formats.torch_names import COUNTER, unwrapped
from metaq.model.formats.torch_objects import AnyTensor, tensor_of
from metaq.model.formats.torch_state import Found, SameNameError, check_storable, find, find_all
from metaq.model.formats.torch_tensors import NOT_THERE, Placed, placed
from metaq.model.formats.torch_walk import walk
from metaq.model.formats.torch_zip import PICKLE, Archive, damaged
from metaq.model.formats.weight_file import NOT_WEIGHTS, WeightFile
from metaq.model.formats.zip_records import is_zip
from metaq.model.stored import FileRange

CONSTANTS = "constants.pkl"
"""The record that only TorchScript has."""

OLD_SCRIPT = "model.json"


def read(path: Path, *, key: str | None = None, keep_all: bool = False) -> WeightFile:
    """Read everything about a file of PyTorch but the elements of its tensors, by its content.

    Parameters
    ----------
    path
        A checkpoint, a state dict, a whole module, TorchScript, an exported program, or a pickle of arrays.
    key
        The keys on the way to the weights in a checkpoint, joined by dots; by default the weights are looked for.
    keep_all
        Whether all else in a checkpoint is kept too: its tensors by their paths, as exact ones, and the rest as bytes.

    Raises
    ------
    FormatError
        If the file is missing, damaged or foreign, holds no weights, or several of which none is more likely, or
        weights of a type that no ``.metaq`` file can hold.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if not is_zip(file.read(4)):
                return _checkpoint(path, torch_legacy.load(path, file, size), None, key, keep_all=keep_all)
            archive = Archive(path, file, 0, size)
            return _from_archive(path, archive, key, keep_all=keep_all)
    except UnpicklingError as error:
        raise damaged(path, str(error)) from error
    except SameNameError as error:
        raise FormatError(f"{path}: {error}.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error


def _from_archive(path: Path, archive: Archive, key: str | None, *, keep_all: bool) -> WeightFile:
    if CONSTANTS in archive and PICKLE in archive:
        _require_no_key(path, key)
        return _of_script(archive)
    if PICKLE in archive:
        return _checkpoint(path, archive.load(), archive, key, keep_all=keep_all)
    if torch_export.recognises(archive):
        _require_no_key(path, key)
        return _program(archive, *torch_export.weights(archive))
    if OLD_SCRIPT in archive:
        raise FormatError(f"{path}: is TorchScript of a version of PyTorch before 1.3; load and save it again.")
    raise FormatError(f"{path}: is a zip archive, but none of PyTorch; unpack it, and give the model in it.")


def _require_no_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise FormatError(f"{path}: is a program and no checkpoint; leave out --key {key}.")


def _of_script(archive: Archive) -> WeightFile:
    """TorchScript: tensors among the attributes of its modules, and constants, which frozen ones have instead."""
    found = list(walk(archive.load()))
    tensors = {name: tensor for name, value in found if (tensor := tensor_of(value)) is not None}
    others = {name: "packed for quantised kernels" for name, _ in found if name not in tensors}
    constants = {
        f"CONSTANTS.c{name}": tensor
        for name, value in walk(archive.load(CONSTANTS, "constants"))
        if (tensor := tensor_of(value)) is not None
    }
    file = _program(archive, {**constants, **tensors}, others)
    exact = [each.name for each in file.tensors if each.name.removeprefix(BESIDE) in constants and tensors]
    return replace(file, reasons=dict.fromkeys(exact, "a constant of the program"))


def _program(archive: Archive, weights: Mapping[str, AnyTensor], others: Mapping[str, str]) -> WeightFile:
    """A file that is more than its tensors, and kept around them."""
    if not weights:
        kind = "only weights that are packed for quantised kernels" if others else "a program without weights"
        raise FormatError(f"{archive.path}: holds {kind}; give the float model.")
    found = placed(archive.path, weights, gathers=False)
    return replace(_around(archive.path, found, archive), left_out={**others, **found.left_out})


def _around(path: Path, found: Placed, archive: Archive | None) -> WeightFile:
    starts = sorted(
        tensor.place.start for tensor in found.tensors if isinstance(tensor.place, FileRange) and tensor.size_bytes
    )
    checksums = {path: tuple(archive.checksums(starts))} if archive is not None else {}
    return WeightFile(path=path, tensors=found.tensors, ties=found.ties, reordered=found.reordered, checksums=checksums)


def _checkpoint(path: Path, top: object, archive: Archive | None, key: str | None, *, keep_all: bool) -> WeightFile:
    if keep_all:
        return _kept(path, top, archive, find_all(path, top, key))
    found = find(path, top, key)
    check_storable(path, found.others)
    names = unwrapped(found.weights)
    stored = placed(path, {short: found.weights[name] for name, short in names.names.items()}, gathers=True)
    counter = {COUNTER: "a counter of averages"} if names.has_counter else {}
    return WeightFile(
        path=path,
        tensors=stored.tensors,
        ties=stored.ties,
        is_state_dict=True,
        key=found.key,
        prefix=names.prefix,
        parts=found.parts,
        left_out={**found.left_out, **counter},
        notes=(*found.notes, *names.notes),
    )


def _kept(path: Path, top: object, archive: Archive | None, found: Found) -> WeightFile:
    names = unwrapped(found.weights)
    named = {short: found.weights[name] for name, short in names.names.items()}
    weights = set(named)
    known = {id(tensor) for tensor in named.values()}
    for way, value in walk({"": top} if tensor_of(top) is not None else top, seen=set()):
        tensor = tensor_of(value)
        if tensor is None or id(tensor) in known:
            continue
        # Where nothing is a state dict, all of it is the model.
        name = BESIDE + way if weights else way
        while name in named:
            name += "'"
        named[name] = tensor
    stored = placed(path, named, gathers=False)
    if not stored.tensors:
        if NOT_THERE in stored.left_out.values():
            raise FormatError(
                f"{path}: its tensors are numpy arrays or compressed, and do not lie in it as they are; they are taken "
                "if the file is given by itself, without --keep-all."
            )
        raise FormatError(f"{path}: holds no tensors that lie in it as they are; there is nothing to compress.")
    own = {stored.renamed.get(name, name) for name in weights}
    holders = {stored.ties.get(name, name) for name in own}
    others = [tensor.name for tensor in stored.tensors if tensor.name not in holders]
    return replace(
        _around(path, stored, archive),
        reordered={name: order for name, order in stored.reordered.items() if name in own},
        reasons=dict.fromkeys(others, NOT_WEIGHTS),
        key=found.key,
        prefix=names.prefix,
        left_out={name.removeprefix(BESIDE): reason for name, reason in stored.left_out.items()},
        notes=(*found.notes, *names.notes),
    )
