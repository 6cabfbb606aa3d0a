"""Where figures go."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def tell(text: object) -> None:
    """Show progress, beside the figures that may go to standard output."""
    print(text, file=sys.stderr, flush=True)


def write_text(text: str, place: str | None) -> None:
    """Write into a file, or for - on standard output; nowhere if `place` is None."""
    if place == "-":
        sys.stdout.write(text)
    elif place:
        Path(place).write_text(text)


def write_json(result: object, place: str | None) -> None:
    """Write figures as :func:`write_text` does."""
    write_text(json.dumps(result, indent=1) + "\n", place)
