"""What went wrong in other packages, in few words."""

from __future__ import annotations

LONGEST = 300


def reason(error: BaseException) -> str:
    """Kind and first line of the error at the bottom of `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:LONGEST] if lines else type(error).__name__
