"""Models of Transformers, and folders for other libraries, out of ``.metaq`` files."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from metaq.compression.restoring import restore_folder
from metaq.config import needed
from metaq.errors import ConfigError, FormatError

CONFIG = "config.json"
PREFIX = "metaq-"
"""Of temporary folders."""

SAFELY = {"local_files_only": True, "trust_remote_code": False}
"""Options of ``from_pretrained``: nothing is downloaded, no code is run, and nobody is asked whether it may be."""

VARIANT = re.compile(
    r"(?:model|pytorch_model)(?:\.(?P<one>[^/]+?))??(?:-\d+-of-\d+)?\.(?:safetensors|bin)(?:\.index(?:\.(?P<index>[^/]+))?\.json)?"
)
"""Names of weights that Transformers finds, with what it calls a variant."""

LOADING_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError)
"""What Transformers raises for files that it does not understand."""


def from_pretrained(path: str | os.PathLike[str], **options: Any) -> Any:
    """The model of a ``.metaq`` file made of a folder or by :func:`save_pretrained`, in evaluation mode.

    Its class is the first of the configuration's ``architectures`` that Transformers has, else the one that
    ``AutoModel`` chooses. Weights have the types of the file.

    Parameters
    ----------
    path
        The file.
    options
        Passed on to ``from_pretrained`` of the class, such as ``dtype`` or ``device_map``.

    Raises
    ------
    ConfigError
        If `options` ask for code of others to be trusted.
    FormatError
        If the file is damaged, foreign, was not made of a folder, or has no configuration that Transformers knows.
    """
    transformers = needed("transformers")
    with _without_code(path, options, only_files=False) as folder:
        model_class = class_of(transformers, Path(path), folder / CONFIG)
        usual = {} if "torch_dtype" in options else {"dtype": "auto"}
        found = loaded(Path(path), model_class, folder, **{**usual, **with_variant(folder, options)})
    rename(found, folder, path)
    # With what there is to say about the loading, where that is asked for.
    (found[0] if isinstance(found, tuple) else found).eval()
    return found


def load_tokenizer(path: str | os.PathLike[str], **options: Any) -> Any:
    """The tokenizer that a ``.metaq`` file carries; `options` are passed on to ``AutoTokenizer.from_pretrained``.

    Raises
    ------
    ConfigError
        If `options` ask for code of others to be trusted.
    FormatError
        If the file is damaged or foreign, was not made of a folder, or carries no tokenizer.
    """
    transformers = needed("transformers")
    with _without_code(path, options, only_files=True) as folder:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **{**SAFELY, **options})
        except LOADING_ERRORS as error:
            raise FormatError(f"{path}: carries no tokenizer that Transformers knows ({error}).") from error
    rename(tokenizer, folder, path)
    return tokenizer


def rename(made: Any, folder: Path, name: str | os.PathLike[str]) -> None:
    """Call what was made by its own name, which adapters and others keep, rather than by the temporary folder."""
    for whole in made if isinstance(made, tuple) else (made,):
        for each in (whole, getattr(whole, "config", None), getattr(whole, "tokenizer", None)):
            for attribute in ("name_or_path", "_name_or_path"):
                if getattr(each, attribute, None) == str(folder):
                    setattr(each, attribute, str(name))
            kept = getattr(each, "init_kwargs", None)
            if isinstance(kept, dict) and kept.get("name_or_path") == str(folder):
                kept["name_or_path"] = str(name)


def with_variant(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``from_pretrained`` with the variant that the names of the only weights in a restored folder have."""
    found = [match["one"] or match["index"] for each in folder.iterdir() if (match := VARIANT.fullmatch(each.name))]
    if "variant" not in options and not any(found):
        return dict(options)
    return {**options, "variant": None if None in found else next(iter(found), None)}


@contextmanager
def restored(path: str | os.PathLike[str], *, only_files: bool = False) -> Iterator[Path]:
    """The folder that a ``.metaq`` file was made of, in a temporary place that is removed at the end of the block.

    For libraries that read a folder: all of it is there, code too, of which metaq itself runs nothing.

    Parameters
    ----------
    path
        The file.
    only_files
        Whether the weights are left out.

    Raises
    ------
    FormatError
        If the file is damaged or foreign, or was not made of a folder.
    OutputError
        If there is no room for the folder.
    """
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as place:
        folder = Path(place) / "model"
        restore_folder(Path(path), folder, only_files=only_files)
        yield folder


@contextmanager
def _without_code(path: str | os.PathLike[str], options: Mapping[str, Any], *, only_files: bool) -> Iterator[Path]:
    refuse_code(options)
    with restored(path, only_files=only_files) as folder:
        remove_code(folder)
        yield folder


def refuse_code(options: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` if the options of a ``from_pretrained`` ask for code of others to be trusted."""
    if options.get("trust_remote_code"):
        raise ConfigError("trust_remote_code: code that a file brings along is never run; restore the folder instead.")


def remove_code(folder: Path) -> None:
    """Take away what a restored folder has of Python, so that nobody can be talked into running it."""
    for file in folder.rglob("*.py"):
        file.unlink()


def loaded(path: Path, kind: Any, place: Path | None = None, **options: Any) -> Any:
    """What `kind`, a class of Transformers, makes of the folder `place`, or `path` itself."""
    try:
        return kind.from_pretrained(place or path, **{**SAFELY, **options})
    except LOADING_ERRORS as error:
        raise FormatError(f"{path}: Transformers cannot make a {kind.__name__} of it ({error}).") from error


def class_of(transformers: ModuleType, path: Path, config: Path) -> Any:
    """A class of Transformers, whatever the configuration says."""
    try:
        described = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: carries no readable {CONFIG}, so that its class is not known.") from error
    names = described.get("architectures") if isinstance(described, dict) else None
    for name in names if isinstance(names, list) else []:
        found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return transformers.AutoModel
