"""Where data sets are looked for when no folder is given."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "METAQ_DATA"
"""Environment variable with the folder of all data sets."""


def cache_folder() -> Path:
    """Folder for downloads: ``metaq`` in XDG_CACHE_HOME, or in ``~/.cache`` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "metaq"


def variable_folder() -> Path | None:
    """The folder that METAQ_DATA names, or None where it is not set or empty."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser() if named else None
