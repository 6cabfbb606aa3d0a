"""Archives of :func:`torch.export.save`: weights beside a program, each a record, or in an archive of their own.

Since PyTorch 2.8 a table in JSON says where each weight lies; versions before pickled them all into a record.
"""

import json
import re

from metaq.errors import FormatError
from metaq.model.formats.torch_objects import AnyTensor, Storage, StorageView, strided, tensor_of
from metaq.model.formats.torch_walk import mapping_of
from metaq.model.formats.torch_zip import Archive, damaged
from metaq.model.formats.unpickling import Global

PROGRAM = "serialized_exported_program.json"
OLD_WEIGHTS = "serialized_state_dict.pt"
FORMAT = "archive_format"
MODEL = re.compile(r"models/(.+)\.json")
WEIGHTS = "data/weights/"

DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}
"""Types by their numbers in the table, after torch/_export/serde/schema.py."""

STRIDED = 7


def recognises(archive: Archive) -> bool:
    """Whether an archive holds exported programs."""
    return PROGRAM in archive or FORMAT in archive


def weights(archive: Archive) -> tuple[dict[str, AnyTensor], dict[str, str]]:
    """Weights of the programs in an archive by their names, which begin with that of the program if there are several,
    and what else is there, with the reason why it is none.

    Raises :class:`FormatError` if the archive is damaged, or holds no program with weights.
    """
    if PROGRAM in archive:
        if OLD_WEIGHTS not in archive:
            raise FormatError(
                f"{archive.path}: was exported by a version of PyTorch before 2.2; export the model again."
            )
        return _pickled(archive, OLD_WEIGHTS)
    models = [match[1] for name in archive.records if (match := MODEL.fullmatch(name))]
    if not models:
        raise FormatError(f"{archive.path}: holds a compiled program without its weights; give the exported program.")
    tensors: dict[str, AnyTensor] = {}
    others: dict[str, str] = {}
    for model in models:
        prefix = f"{model}." if len(models) > 1 else ""
        pickled = f"{WEIGHTS}{model}.pt"
        found, rest = _pickled(archive, pickled) if pickled in archive else _listed(archive, model)
        tensors |= {prefix + name: tensor for name, tensor in found.items()}
        others |= {prefix + name: reason for name, reason in rest.items()}
    return tensors, others


def _pickled(archive: Archive, name: str) -> tuple[dict[str, AnyTensor], dict[str, str]]:
    """Tensors of a dict in an archive of :func:`torch.save` that is a record of this one."""
    entries = mapping_of(archive.nested(name).load()) or {}
    tensors = {name: tensor for name, value in entries.items() if (tensor := tensor_of(value)) is not None}
    return tensors, dict.fromkeys(entries.keys() - tensors.keys(), "not a tensor")


def _listed(archive: Archive, model: str) -> tuple[dict[str, AnyTensor], dict[str, str]]:
    """Tensors of a model by the table of its weights."""
    tensors: dict[str, AnyTensor] = {}
    others: dict[str, str] = {}
    storages: dict[str, Storage] = {}
    pickled: dict[str, AnyTensor | None] = {}
    try:
        table = json.loads(archive.read(f"{WEIGHTS}{model}_weights_config.json"))
        for name, payload in table["config"].items():
            record = WEIGHTS + str(payload["path_name"])
            if payload["use_pickle"]:
                if record not in pickled:
                    pickled[record] = tensor_of(archive.nested(record).load())
                tensor = pickled[record]
                if tensor is None:
                    others[name] = "not a tensor"
                    continue
            else:
                if record not in storages:
                    storages[record] = archive.storage(record)
                tensor = _described(storages[record], payload["tensor_meta"])
            tensors[name] = tensor
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise damaged(archive.path, f"the table of the weights of {model!r} cannot be read") from error
    return tensors, others


def _described(storage: Storage, meta: dict[str, object]) -> AnyTensor:
    """The tensor that an entry of the table describes."""
    label = DTYPES.get(_integer(meta["dtype"]), "an unknown type")
    if meta["layout"] != STRIDED:
        label = "a sparse layout"
    shape, strides = (tuple(map(_integer, _list(meta[name]))) for name in ("sizes", "strides"))
    if not storage.size_bytes and 0 not in shape:
        label = "no values"
    view = StorageView(storage, label)
    return strided(view, _integer(meta["storage_offset"]), shape, strides, Global("torch", label))


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _integer(value: object) -> int:
    """A number, or what the table has for one that could have been a symbol."""
    if isinstance(value, dict):
        value = value["as_int"]
    if type(value) is not int:
        raise TypeError("no integer")
    return value
