"""What a run was made with: its command, the versions of what matters for its figures, and the machine."""

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

FILE_NAME = "environment.json"

DISTRIBUTION = "metaq-torch"
PACKAGES = ("torch", "numpy", "numba", "constriction")
"""Those on which the figures of a run depend, beside metaq itself."""

CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+(?=@)")


def describe(*, device: torch.device) -> dict[str, str | int]:
    """Command, versions and machine of this process, which computes on `device`; neither user nor host is named."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "command": command(sys.argv),
        "metaq": _version(DISTRIBUTION),
        "python": platform.python_version(),
        **versions,
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": str(device) if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
    }


def command(arguments: Sequence[str]) -> str:
    """A line for a shell from the arguments of a process, without the credentials of any URL.

    Examples
    --------
    >>> command(["/usr/bin/metaq", "train", "--out", "my run"])
    "metaq train --out 'my run'"
    >>> command(["train.py", "--storage", "mysql://me:secret@host/db"])
    'python train.py --storage mysql://...@host/db'
    """
    program = Path(arguments[0]) if arguments and arguments[0] else Path("-")
    is_own = program.stem == "metaq" or program.parts[-2:] == ("metaq", "__main__.py")
    words = ["metaq", *arguments[1:]] if is_own else ["python", *arguments]
    return shlex.join(CREDENTIALS.sub("...", word) for word in words)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
