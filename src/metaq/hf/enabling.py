"""``from_pretrained`` of Transformers on ``.metaq`` files: it is led to the folder that a file is restored to."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from metaq.config import needed
from metaq.errors import FormatError
from metaq.hf.hub import snapshot_of
from metaq.hf.loading import CONFIG, refuse_code, rename, with_variant
from metaq.hf.places import NAME, Places, holds_other_weights

CLASSES = (
    "PreTrainedModel",
    "PreTrainedConfig",
    "PretrainedConfig",
    "PreTrainedTokenizerBase",
    "ProcessorMixin",
    "FeatureExtractionMixin",
    "BaseImageProcessor",
    "BaseVideoProcessor",
    "GenerationConfig",
    "AutoModel",
    "AutoConfig",
    "AutoTokenizer",
    "AutoProcessor",
    "AutoImageProcessor",
    "AutoFeatureExtractor",
    "AutoVideoProcessor",
)
"""Classes of Transformers whose ``from_pretrained``, inherited or their own, all others use in the end."""

WITH_WEIGHTS = ("PreTrainedModel", "AutoModel")

SUFFIX = ".metaq"

METHOD = "from_pretrained"

FUNCTION = "cached_files"
"""What looks for a single file of a model, before any class is known."""

_originals: dict[tuple[Any, str], Any] = {}
"""What was replaced, by its owner and name there; empty while nothing is enabled."""

_places = Places()


def enable() -> None:
    """Make ``from_pretrained`` of every class of Transformers read ``.metaq`` files, in this process.

    The name may then also be the path of a ``.metaq`` file; a folder, or a subfolder by ``subfolder=``, that holds
    ``model.metaq`` and no weights that Transformers knows; or a repository of Hugging Face's hub like that. Of a
    folder, files that lie beside ``model.metaq`` are taken rather than those that it carries. All other names do what
    they did before, and a repository whose weights are not in the cache is asked once more whether it has that file.

    A file is restored once, its weights only if a model needs them, to a temporary folder that is removed when the
    process ends. Code that a file carries is never run. Enabling twice does no more than once.

    Raises
    ------
    ConfigError
        If Transformers is not installed.
    """
    transformers = needed("transformers")
    for name in CLASSES:
        for owner in _owners(transformers, name):
            _replace(owner, METHOD, functools.partial(_leading, name))
    _replace(needed("transformers.utils.hub"), FUNCTION, _finding)


def disable() -> None:
    """Undo :func:`enable`; what was restored stays until the process ends."""
    while _originals:
        (owner, name), original = _originals.popitem()
        setattr(owner, name, original)


def _replace(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    if (owner, name) not in _originals:
        original = _originals[owner, name] = vars(owner)[name]
        setattr(owner, name, made(original))


def _owners(transformers: ModuleType, name: str) -> list[type]:
    """The classes that define what is ``from_pretrained`` of a class; none if this version of Transformers lacks it."""
    found = getattr(transformers, name, None)
    bases = found.__mro__ if isinstance(found, type) else ()
    owners = [base for base in bases if isinstance(base.__dict__.get(METHOD), classmethod)]
    if name != "AutoModel" or not owners:
        return owners[:1]
    # Each of its siblings has a copy of the method.
    copies = [each for each in _below(owners[-1]) if isinstance(each.__dict__.get(METHOD), classmethod)]
    return [owners[-1], *copies]


def _below(base: type) -> Iterator[type]:
    below: list[type] = base.__subclasses__()
    for each in below:
        yield each
        yield from _below(each)


def _leading(name: str, method: classmethod[Any, Any, Any]) -> classmethod[Any, Any, Any]:
    """The method of the class called `name`, on the folder that is meant."""
    original: Callable[..., Any] = method.__func__
    _, parameter, *_ = inspect.signature(original).parameters
    is_auto, has_weights = name.startswith("Auto"), name in WITH_WEIGHTS

    @functools.wraps(original)
    def from_pretrained(cls: type, *arguments: Any, **options: Any) -> Any:
        named = arguments[0] if arguments else options.get(parameter)
        is_name = isinstance(named, str | os.PathLike) and str(named) != ""
        folder = _folder_of(str(named), options, has_weights=has_weights) if is_name else None
        if folder is None:
            return original(cls, *arguments, **options)
        refuse_code(options)
        if has_weights and options.get("config") is None and not (folder / CONFIG).is_file():
            raise FormatError(f"{named}: holds no {CONFIG}; put it beside the file, or give config=.")
        changed = {**options, "subfolder": ""} if "subfolder" in options else dict(options)
        if has_weights:
            changed = with_variant(folder, changed)
        if is_auto:
            # Otherwise somebody is asked whether the code may be run.
            changed["trust_remote_code"] = False
        if arguments:
            made = original(cls, str(folder), *arguments[1:], **changed)
        else:
            made = original(cls, **{**changed, parameter: str(folder)})
        rename(made, folder, str(named))
        return made

    return classmethod(from_pretrained)


def _finding(original: Callable[..., Any]) -> Callable[..., Any]:
    """`original`, which looks for files, in the folder that a ``.metaq`` file is restored to."""

    @functools.wraps(original)
    def cached_files(path_or_repo_id: Any, *arguments: Any, **options: Any) -> Any:
        path = Path(str(path_or_repo_id))
        if path.suffix == SUFFIX and path.is_file():
            path_or_repo_id = _places.folder(path, None, has_weights=False)
        return original(path_or_repo_id, *arguments, **options)

    return cached_files


def _folder_of(named: str, options: Mapping[str, Any], *, has_weights: bool) -> Path | None:
    """The folder to load from in place of what is named; None if that is none of metaq's business."""
    path, subfolder = Path(named), str(options.get("subfolder") or "")
    if path.suffix == SUFFIX and not path.is_dir():
        return _places.folder(path, None, has_weights=has_weights)
    if not path.exists():
        found = snapshot_of(named, options)
        if found is None:
            return None
        path = found
    beside = path / subfolder
    if not (beside / NAME).is_file() or holds_other_weights(beside):
        return None
    return _places.folder(beside / NAME, beside, has_weights=has_weights)
