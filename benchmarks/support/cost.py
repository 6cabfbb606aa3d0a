"""What a call costs: seconds and memory."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

PROCESS = Path("/proc/self")
KIB_PER_MIB = 1024
RESET_PEAK = "5"
"""What clear_refs takes to forget the largest resident memory (proc_pid_clear_refs(5))."""


def measured(call: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """The result of `call`, and "seconds"; on Linux "peak_mib", too.

    That is by how much the resident memory of this process was larger at its highest during the call than before it:
    memory that tensors, libraries and threads take, whoever asks for it. What was free but not given back to the system
    before the call would not count, so it is given back.
    """
    before = resident_mib()
    begun = time.perf_counter()
    result = call()
    cost = {"seconds": time.perf_counter() - begun}
    if before is not None:
        cost["peak_mib"] = peak_mib() - before
    return result, cost


def resident_mib() -> float | None:
    """Resident memory, MiB, from which on the largest counts; None where the system does not say."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except (AttributeError, OSError):
        return None
    return peak_mib()


def peak_mib() -> float:
    """The largest resident memory since, MiB."""
    status = (PROCESS / "status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / KIB_PER_MIB
