"""Which of the files of a folder hold its weights, by their names, and which the same weights in another form."""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

SAFETENSORS, TORCH = ".safetensors", frozenset((".bin", ".pt", ".pth", ".ckpt"))
KERAS = (".keras", ".h5")
INDEX = re.compile(r"(?P<shards>\.safetensors|\.bin)\.index(?P<variant>\.[^/]+?)?\.json$")
"""What the names of indices of shards end in."""

LAYERS = ".weights.h5"
"""What names of Keras's files of weights alone end in."""

WHOLE_MODELS = frozenset((".onnx", ".tflite", *KERAS))
"""Of files with a model each, which are taken unless others hold the same weights."""

OTHER_SUFFIXES = frozenset((".onnx_data", ".msgpack", ".gguf", ".ggml", ".ot", ".metaq", ".mlmodel"))
MAYBE_SUFFIXES = frozenset((".npz", ".pb", ".pkl", ".pickle"))
"""Of files that are weights in another form where they are called like those that are taken, and else what they are."""

FAMILIES = dict.fromkeys(("pytorch_model", "tf_model", "flax_model", "saved_model", "consolidated"), "model")
"""Stems of files that hold the same weights as those called otherwise."""

DIFFUSION = frozenset(("diffusion_pytorch_model", "diffusion_flax_model"))
"""Stems of weights that an export calls "model"."""

PARTS = re.compile(r"(?:encoder|decoder|decoder_with_past|text|vision|audio)_model")
"""Stems of exports of the parts of a model."""

EXPORTS = "onnx"
"""A folder that exports of the model above it lie in."""

TRAINING = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|random_states|trainer_state)[\w.-]*")
"""Stems of files that a training goes on from."""

ENDING = re.compile(r"(?P<shard>-\d+-of-\d+)$|\.(?P<variant>fp16|bf16|fp32|ema|ema_only|non_ema|\d\d+)$", re.IGNORECASE)
"""What stems end in by which files of the same weights differ, or parts of them."""

SMALLER = re.compile(
    r"[._-](?:quanti[sz]ed|(?:\w+_)?quant|optimi[sz]ed|merged|b?fp?(?:16|32)|b?float(?:16|32)|q[48](?:f16)?|bnb4|o[1-4]"
    r"|q?u?int(?:4|8|16)(?:_\w+)?)$",
    re.IGNORECASE,
)
"""What stems of whole models end in that have the same weights with fewer bits, or in a graph that is faster."""

OTHER_FORM = "holds weights in another form"
NOT_TAKEN = "holds weights in a form that is not taken from folders"
TRAINING_STATE = "is the state of a training"

Family = tuple[str, str]
"""What files with the same weights in several forms have in common: their folder, and what they are called."""


def holds_weights(path: str) -> bool:
    """Whether a file, by its path in a folder, holds weights, so that it is never carried as it is."""
    return suffix(path) in {SAFETENSORS, *TORCH, *WHOLE_MODELS, *OTHER_SUFFIXES}


def suffix(path: str) -> str:
    """The suffix of a file in lower case."""
    return PurePosixPath(path).suffix.lower()


def choose(names: Sequence[str], external: Collection[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Of the files of a folder those that hold its weights, with the indices of shards, and why others of weights are
    left out. `external` are those that belong to ONNX files.
    """
    groups: dict[Family, list[str]] = {}
    wholes: dict[Family, list[str]] = {}
    left_out: dict[str, str] = {}
    others: list[str] = []
    for name in names:
        kind = suffix(name)
        if name in external:
            left_out[name] = OTHER_FORM
        elif kind in WHOLE_MODELS:
            wholes.setdefault(_model(name), []).append(name)
        elif kind in OTHER_SUFFIXES or kind in MAYBE_SUFFIXES:
            others.append(name)
        elif kind == SAFETENSORS or kind in TORCH or is_index(name):
            if TRAINING.fullmatch(stem(name)):
                left_out[name] = TRAINING_STATE
            else:
                groups.setdefault(_family(name), []).append(name)
    chosen: list[str] = []
    for group in groups.values():
        chosen += _best(group)
    taken = {_model(name) for name in chosen}
    for (folder, model), group in wholes.items():
        if (folder, model) in taken or ((folder, "model") in taken and PARTS.fullmatch(model)):
            continue
        chosen.append(min(group, key=_plainness))
    alike = {_family(name) for name in chosen} | {_model(name) for name in chosen}
    for name in others:
        if {_family(name), _model(name)} & alike:
            left_out[name] = OTHER_FORM
        elif suffix(name) in OTHER_SUFFIXES:
            left_out[name] = NOT_TAKEN
    grouped = [name for group in (*groups.values(), *wholes.values()) for name in group]
    left_out |= dict.fromkeys((name for name in grouped if name not in chosen), OTHER_FORM)
    return sorted(chosen), left_out


def is_index(path: str) -> bool:
    """Whether a file, by its name, says which tensors are in which shard."""
    return INDEX.search(path) is not None


def kind_of_shards(index: str) -> str:
    """The suffix of the shards of an index."""
    found = INDEX.search(index)
    assert found is not None
    return found["shards"]


def is_shard(path: str) -> bool:
    """Whether a weight file has the number of a shard."""
    return _parts(path)[2]


def without_number(path: str) -> str:
    """The name of a weight file, or of an index, without suffix and, of a shard, without its number."""
    name, variant, has_number = _parts(path)
    if not has_number and not is_index(path):
        return PurePosixPath(path).stem
    return f"{name}.{variant}" if variant else name


def stem(path: str) -> str:
    """The name of a weight file without number of the shard, variant and suffix."""
    return _parts(path)[0]


def _parts(path: str) -> tuple[str, str, bool]:
    """That, the variant, and whether it has the number of a shard."""
    name = PurePosixPath(path).name
    variants, has_number = [], False
    if (index := INDEX.search(name)) is not None:
        name = name[: index.start()] + (index["variant"] or "")
    else:
        name = name[: -len(LAYERS)] if name.lower().endswith(LAYERS) else PurePosixPath(name).stem
    while (found := ENDING.search(name)) is not None and found.start():
        name = name[: found.start()]
        has_number = has_number or found["shard"] is not None
        variants += [found["variant"]] if found["variant"] else []
    return name, ".".join(reversed(variants)), has_number


def _family(path: str) -> Family:
    name = stem(path)
    return PurePosixPath(path).parent.as_posix(), FAMILIES.get(name, name)


def _model(path: str) -> Family:
    """The family of a file as that of a whole model."""
    folder, name = PurePosixPath(path).parent, stem(path)
    folder = folder.parent if folder.name == EXPORTS else folder
    while suffix(path) in WHOLE_MODELS and (found := SMALLER.search(name)) is not None and found.start():
        name = name[: found.start()]
    return folder.as_posix(), "model" if name in DIFFUSION else FAMILIES.get(name, name)


def _plainness(path: str) -> tuple[bool, bool, str]:
    """Less for the file of a whole model that has all of its bits."""
    name = stem(path)
    return SMALLER.search(name) is not None, name != "model", path


def _best(group: Iterable[str]) -> list[str]:
    """Of files of one family those in the best form: safetensors before PyTorch's, without a variant before others.

    With an index, that and its shards are one form.
    """

    def form(name: str) -> tuple[bool, bool, str, bool]:
        known, variant, has_number = _parts(name)
        is_torch = (kind_of_shards(name) if is_index(name) else suffix(name)) != SAFETENSORS
        # Names that a library gives come first; a single file is complete without the word of an index.
        is_usual = FAMILIES.get(known) is None or known == "pytorch_model"
        return is_torch, not is_usual, variant, is_index(name) or has_number

    group = list(group)
    best = min(map(form, group))
    if best[2].isdigit():
        # Files such as weights.00.safetensors are parts.
        return [name for name in group if form(name)[:2] == best[:2] and form(name)[2].isdigit()]
    return [name for name in group if form(name) == best]
