"""A model card for hubs in Markdown, of what a file or a run says and nothing else."""

import json
import re
from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from shlex import quote

import numpy as np

from metaq import container
from metaq.compression.restoring import origin_of
from metaq.config import require
from metaq.container.carried import is_carried, path_of, tensor_name
from metaq.container.source import is_update
from metaq.lab import nets, runs
from metaq.lab.registry import NETWORKS
from metaq.report.subject import Subject
from metaq.report.text import printable, shown

CONFIG = "config.json"
LARGEST_CONFIG = 1 << 20

HUB_DATA_SETS = {"cifar10": "uoft-cs/cifar10", "mnist": "ylecun/mnist"}
"""Names on the hub of the data sets that are there."""

NAMED = re.compile(r"[\w.-]+(/[\w.-]+)?")


def card(source: Path, subject: Subject) -> str:
    """The card of a ``.metaq`` file, or of the one in a run's folder, whose `subject` is known.

    Raises :class:`ConfigError` if there is no such file, or it is an update of another.
    """
    path = source / runs.MODEL_FILE if source.is_dir() else source
    require(path.exists() and container.is_metaq(path), f"--card: {path} is no .metaq file; a card is of one.")
    require(not is_update(path), f"--card: {path} is an update of another model; write the card of what it gives.")
    contents = container.describe(path)
    sections = [
        _front_matter(contents, subject, _base_model(path, contents)),
        f"# {_plain(subject.title)}",
        _first_words(path, contents, subject),
        "## Size and quality",
        _table(_figures(path, subject)),
        "## How to load it",
        _loading(path, contents, subject),
        *_origin(contents, subject),
        "## What is in it",
        _table(_tensors(subject)),
        "## Environment",
        _environment(contents, subject),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(contents: container.Contents, subject: Subject, base: str | None) -> str:
    """What hubs read, as YAML; the licence and what is not certain is left to the user."""
    known = {**contents.metadata, **(subject.config or {})}
    tags = ["metaq", "compressed", *(["quantized"] if _quantized(subject) else [])]
    lines = ["---", "# license: yours to choose, such as apache-2.0"]
    if base is not None:
        lines.append(f"# base_model: {base}  # so {CONFIG} says; uncomment it if this is its name on the hub")
    lines += ["library_name: metaq", "tags:", *(f"- {tag}" for tag in tags)]
    if known.get("net") in NETWORKS:
        lines.append("pipeline_tag: image-classification")
    if known.get("data") in HUB_DATA_SETS:
        lines += ["datasets:", f"- {HUB_DATA_SETS[str(known['data'])]}"]
    if subject.after is not None:
        lines += ["metrics:", "- accuracy"]
    return "\n".join([*lines, "---"])


def _base_model(path: Path, contents: container.Contents) -> str | None:
    """What the configuration of a folder of Transformers says that the model was loaded from."""
    name = tensor_name(CONFIG)
    sizes = {entry.name: entry.count for entry in contents.entries if is_carried(entry.name, contents.metadata)}
    if not 0 < sizes.get(name, 0) <= LARGEST_CONFIG:
        return None
    (_, tensor), *_ = container.stream(path, names=[name])
    try:
        told = json.loads(np.asarray(tensor.restore()).tobytes())
    except (ValueError, RecursionError):
        return None
    base = told.get("_name_or_path") if isinstance(told, dict) else None
    return base if isinstance(base, str) and NAMED.fullmatch(base) else None


def _first_words(path: Path, contents: container.Contents, subject: Subject) -> str:
    sizes = contents.sizes
    known = {**contents.metadata, **(subject.config or {})}
    what = f"the network {_code(known['net'])}" if "net" in known else "a neural network"
    made_of = origin_of(contents.metadata)
    made = f", made of {'a model folder' if made_of == 'a folder' else _code(made_of)}" if made_of else ""
    return (
        f"{_code(path.name)} holds the weights of {what}{made}, in {sizes['bytes']:,} bytes. The tensors that it gives "
        f"back have {sizes['float_bytes']:,} bytes, {sizes['ratio']:,.1f} times as many."
    )


def _figures(path: Path, subject: Subject) -> list[tuple[str, str]]:
    sizes = subject.sizes or {}
    rows = [
        ("file", f"{sizes['bytes']:,} bytes"),
        ("tensors", f"{sizes['float_bytes']:,} bytes, {sizes['weights']:,} elements"),
        ("bits per element", f"{sizes['bits_per_weight']:.3f}"),
    ]
    for accuracy in (subject.after, subject.before):
        if accuracy is not None:
            rows.append((f"accuracy: {_plain(accuracy.what)}", f"{accuracy.percent:.2f} %"))
    if subject.kept is not None:
        rows.append(("outputs kept, 1 where they are the same", subject.kept))
    if subject.after is None and subject.kept is None:
        rows.append(("quality", "the file does not say"))
    if subject.layers:
        every = sum(layer.multiply_adds or 0 for layer in subject.layers)
        live = sum(layer.live_multiply_adds or 0 for layer in subject.layers)
        rows.append(("multiply-adds for one input", f"{every:,}; {live:,} with weights other than zero"))
    with path.open("rb") as stream:
        rows.append(("SHA-256", _code(file_digest(stream, "sha256").hexdigest())))
    return rows


def _loading(path: Path, contents: container.Contents, subject: Subject) -> str:
    name, net = path.name, contents.metadata.get("net")
    made_of = origin_of(contents.metadata)
    python = [
        "import metaq",
        "",
        f"weights = metaq.load({name!r})  # tensors by name",
        "model.load_state_dict(weights)",
    ]
    if net in NETWORKS and not made_of and _fits(str(net), subject):
        python = ["import metaq", "from metaq.lab import nets", "", f"model = nets.create({net!r})"]
        python.append(f"model.load_state_dict(metaq.load({name!r}))")
    carried = {path_of(entry.name) for entry in contents.entries if is_carried(entry.name, contents.metadata)}
    if made_of == "a folder" and CONFIG in carried:
        python = ["from metaq import hf", "", f"model = hf.from_pretrained({name!r})"]
    stem = f"{path.stem}-restored"
    target = stem if made_of == "a folder" else f"restored-{made_of}" if made_of else f"{stem}.safetensors"
    shell = f"metaq decompress {quote(name)} -o {quote(target)}"
    blocks = ["With the Python package metaq (`metaq-torch`):", _block("python", python)]
    return "\n\n".join([*blocks, "The same for programs without it:", _block("bash", [shell])])


def _fits(net: str, subject: Subject) -> bool:
    """Whether a reference network takes the tensors as they are, not folded."""
    own = {name: tuple(tensor.shape) for name, tensor in nets.create(net).state_dict().items()}
    return own == {tensor.name: tensor.shape for tensor in subject.tensors}


def _origin(contents: container.Contents, subject: Subject) -> list[str]:
    """How it was made, as far as that is known."""
    known = {**contents.metadata, **(subject.config or {})}
    rows: list[tuple[str, str]] = [(name, _code(known[name])) for name in ("net", "data") if name in known]
    if subject.goal is not None:
        rows.append(("goal", subject.goal))
    parts = [_table(rows)] if rows else []
    command = subject.environment.get("command")
    if isinstance(command, str):
        parts.append(_block("bash", [command]))
    return ["## How it was made", *parts] if parts else []


def _tensors(subject: Subject) -> list[tuple[str, str]]:
    quantized, tensors = _quantized(subject), [each for each in subject.tensors if each.kind != "carried file"]
    rows = [("tensors", f"{len(tensors):,}"), ("quantised", f"{quantized:,}")]
    tied = sum(each.kind == "tied" for each in tensors)
    if tied:
        rows.append(("tied to another", f"{tied:,}"))
    rows.append(("kept exactly", f"{len(tensors) - quantized - tied:,}"))
    files = len(subject.tensors) - len(tensors)
    if files:
        rows.append(("files carried along", f"{files:,}"))
    elements = sum(each.elements for each in tensors if each.zeros is not None)
    zeros = sum(each.zeros or 0 for each in tensors)
    if elements:
        rows.append(("elements that are zero", f"{100 * zeros / elements:.1f} %"))
    return rows


def _environment(contents: container.Contents, subject: Subject) -> str:
    version = f"The file has version {contents.version} of the format `.metaq`; every decoder gives the same bits."
    rows = [(key, _code(value)) for key, value in subject.environment.items() if key != "command"]
    return "\n\n".join([version, *([_table(rows)] if rows else [])])


def _quantized(subject: Subject) -> int:
    return sum(tensor.kind == "quantised" for tensor in subject.tensors)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _block(language: str, lines: Sequence[str]) -> str:
    """A block of code whose lines cannot end it."""
    return "\n".join([f"````{language}", *(printable(line).replace("````", "'''") for line in lines), "````"])


def _code(value: object) -> str:
    """A text from a file as code, which Markdown shows as it is, also in a table."""
    return "`" + shown(value).replace("`", "'").replace("|", "\\|") + "`"


def _plain(text: str) -> str:
    """A text from a file with nothing in it that Markdown or HTML means something by."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|&~])", r"\\\1", shown(text))
