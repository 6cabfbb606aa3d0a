"""Post-training quantisation over a range of bucket counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from metaq.config import require
from metaq.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """A bucket count, percent of images classified rightly, entropy of the indices with one table a grid, and the bytes
    of the file if written.
    """

    buckets: int
    accuracy: float
    entropy_bits: float
    file_bytes: int | None = None


def parse_range(text: str) -> range:
    """Bucket counts from ``FIRST:LAST`` or ``FIRST:LAST:STEP``, the last included; else :class:`ConfigError`.

    Examples
    --------
    >>> list(parse_range("4:10:3"))
    [4, 7, 10]
    """
    try:
        first, last, step = (int(part) for part in (text if text.count(":") > 1 else f"{text}:1").split(":"))
    except ValueError as error:
        raise ConfigError(f"--sweep {text}: write it as FIRST:LAST or FIRST:LAST:STEP, as in 10:1024.") from error
    require(2 <= first <= last and step >= 1, f"--sweep {text}: needs 2 <= FIRST <= LAST and STEP >= 1.")
    return range(first, last + 1, step)


def best_rows(rows: Sequence[SweepRow], *, most: int) -> list[SweepRow]:
    """The `most` rows of highest accuracy, on a tie those of lower entropy, best first."""
    return sorted(rows, key=lambda row: (-row.accuracy, row.entropy_bits))[:most]


def choose_smallest(rows: Sequence[SweepRow], *, least_accuracy: float) -> SweepRow:
    """The row of lowest entropy among those of at least `least_accuracy` percent; :class:`ConfigError` if there is
    none.
    """
    good = [row for row in rows if row.accuracy >= least_accuracy]
    if not good:
        best = max(row.accuracy for row in rows)
        raise ConfigError(
            f"--tolerance: no bucket count keeps {least_accuracy:.2f} % (the best has {best:.2f} %); "
            "allow more loss or sweep over larger counts."
        )
    return min(good, key=lambda row: row.entropy_bits)
