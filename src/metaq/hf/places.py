"""Temporary folders that ``.metaq`` files are restored to, each once in the life of a process."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path
from threading import Lock

from metaq import container
from metaq.compression.restoring import restore_folder, restore_safetensors
from metaq.container.carried import is_folder
from metaq.hf.loading import PREFIX, remove_code
from metaq.model.folder import WEIGHTS

NAME = "model.metaq"

OTHER_WEIGHTS = re.compile(r"(pytorch_)?model([.-].+)?\.(safetensors|bin)(\.index\.json)?")
"""Names of weights that Transformers finds."""

Stamp = tuple[object, ...]


def holds_other_weights(folder: Path) -> bool:
    """Whether Transformers finds weights in a folder."""
    return any(OTHER_WEIGHTS.fullmatch(entry.name) for entry in folder.iterdir())


class Places:
    """The folders; those of the process that made them are removed when it ends."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._root: Path | None = None
        self._folders: dict[Stamp, Path] = {}

    def folder(self, file: Path, beside: Path | None, *, has_weights: bool) -> Path:
        """What `file` was made of, with weights if they are asked for, and with the files of the folder `beside` before
        those that it carries.

        Raises :class:`FormatError` if the file is damaged or foreign, and :class:`OutputError` if there is no room.
        """
        container.head_of(file, 1)
        key = (_stamp(file), *(sorted(map(_stamp, beside.iterdir()), key=repr) if beside else ()))
        with self._lock:
            for kind in {True, has_weights}:
                if (*key, kind) in self._folders:
                    return self._folders[*key, kind]
            out = self._made_root() / str(len(self._folders))
            _restore(file, out, has_weights=has_weights)
            if beside is not None:
                _link(beside, out)
            self._folders[*key, has_weights] = out
            return out

    def _made_root(self) -> Path:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix=PREFIX))
            atexit.register(_remove, self._root, os.getpid())
        return self._root


def _remove(root: Path, process: int) -> None:
    # Children that were forked end too, but go on to share the folders.
    if os.getpid() == process:
        shutil.rmtree(root, ignore_errors=True)


def _stamp(path: Path) -> Stamp:
    """What tells that a file is still the same."""
    stat = path.stat()
    return (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _restore(file: Path, out: Path, *, has_weights: bool) -> None:
    if is_folder(container.describe(file).metadata):
        restore_folder(file, out, only_files=not has_weights)
        remove_code(out)
        return
    out.mkdir()
    if has_weights:
        restore_safetensors(file, out / WEIGHTS)


def _link(beside: Path, out: Path) -> None:
    """Put the files of a folder in place of those of a restored one, all but weights, code and hidden files."""
    for entry in beside.iterdir():
        place = out / entry.name
        if entry.name in (NAME, WEIGHTS) or entry.name.startswith(".") or entry.suffix == ".py":
            continue
        if entry.is_dir() and place.is_dir():
            _link(entry, place)
            continue
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        try:
            place.symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
        except OSError:
            # Some systems do not let everybody make links.
            (shutil.copytree if entry.is_dir() else shutil.copyfile)(entry, place)
