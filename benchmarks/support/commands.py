"""The command line as a process of its own, with its seconds and its peak memory."""

from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROGRAM = """
import atexit, sys
from pathlib import Path
report, status = Path(sys.argv.pop(1)), Path("/proc/self/status")
atexit.register(lambda: report.write_bytes(status.read_bytes() if status.exists() else b""))
from metaq.cli import main
main()
"""
"""The command line, which leaves what the system knows of its memory: the usage of children counts their parent's."""

MEASURES = ("seconds", "cpu_seconds", "peak_mib")


class CommandError(Exception):
    """A command has failed; the message says which and why."""


def run_metaq(arguments: Sequence[str]) -> dict[str, Any]:
    """What a command prints as JSON, with its seconds and, where the system tells, its peak memory."""
    with tempfile.TemporaryDirectory() as place:
        status = Path(place) / "status"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.perf_counter()
        command = [sys.executable, "-c", PROGRAM, str(status), *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise CommandError(f"metaq {shlex.join(arguments)}: {done.stderr.strip()}")
        peaks = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak_mib = int(peaks[0]) / 1024 if peaks else None
    return {**json.loads(done.stdout), "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib}


def used(result: dict[str, Any]) -> dict[str, Any]:
    """What a command of :func:`run_metaq` took."""
    return {name: result[name] for name in MEASURES}


def describe_use(command: str, use: dict[str, Any]) -> str:
    """One line."""
    peak = "unknown" if use["peak_mib"] is None else f"{use['peak_mib']:.0f} MiB"
    return f"{command}: {use['seconds']:.0f} s, {use['cpu_seconds']:.0f} s of cores, peak memory {peak}"
