"""Repositories of Hugging Face's hub that hold a ``.metaq`` file in place of weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from metaq.config import needed
from metaq.hf.places import NAME

OPTIONS = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only")
"""Those of ``from_pretrained`` that say where a repository is."""

QUIETLY = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
"""Transformers reports what is wrong when it looks for its own files."""

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

LEFT_OUT = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.ot", "*.py")
"""What of a repository with a ``.metaq`` file is not needed."""


def snapshot_of(repository: str, options: Mapping[str, Any]) -> Path | None:
    """The folder in the cache with all files of a repository that has ``model.metaq`` and no weights of Transformers'
    own; None for any other name.

    `options` are those of ``from_pretrained``. Weights that are in the cache settle it without the hub being asked.
    """
    hub, given = needed("transformers.utils.hub"), {name: options[name] for name in OPTIONS if name in options}
    subfolder = str(options.get("subfolder") or "")
    prefix = f"{subfolder}/" if subfolder else ""
    place = {name: given[name] for name in ("revision", "cache_dir") if given.get(name) is not None}
    library = import_module("huggingface_hub")
    try:
        if any(
            isinstance(library.try_to_load_from_cache(repository, f"{prefix}{name}", **place), str)
            for name in WEIGHT_FILES
        ):
            return None
        found = hub.cached_file(repository, NAME, subfolder=subfolder, **QUIETLY, **given)
        if found is None or any(_has(hub, repository, f"{prefix}{name}", given) for name in WEIGHT_FILES):
            return None
    except (OSError, ValueError):
        # There is no such repository, or that is no name of one.
        return None
    folder = Path(found).parents[len(Path(subfolder).parts)]
    if given.get("local_files_only") or hub.is_offline_mode():
        return folder
    return Path(
        library.snapshot_download(repository, token=given.get("token"), ignore_patterns=list(LEFT_OUT), **place)
    )


def _has(hub: Any, repository: str, name: str, given: Mapping[str, Any]) -> bool:
    asked = {key: given[key] for key in ("cache_dir", "proxies", "token", "revision") if key in given}
    only_here = bool(given.get("local_files_only")) or hub.is_offline_mode()
    return bool(hub.has_file(repository, name, local_files_only=only_here, **asked))
