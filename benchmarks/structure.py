"""How the source is laid out: rooms, arrows between them, floors, imports against the order, and lines.

A room is a module or folder at the top of ``src/metaq``. An arrow leads from a room to another that one of its files
imports, wherever in the file the import stands. Floors are the rooms of the longest chain of arrows; rooms that import
each other in a circle share a floor. ``--baseline FOLDER`` puts the figures of another checkout beside these.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from support.results import write_json

ROOT = Path(__file__).parents[1]

ORDER = (
    "errors",
    "config",
    "files",
    "progress",
    "compiled",
    "tensors",
    "entropy",
    "coding",
    "container",
    "decode",
    "model",
    "quantize",
    "compression",
    "regularizer",
    "hf",
    "lightning",
    "transformers",
    "onnx",
    "firmware",
    "lab",
    "report",
    "cli",
    "__main__",
)
"""Rooms in the order in which data flows; a room imports only from rooms before it in this list."""

MOST_ROOMS = 26
MOST_FLOORS = 12


@dataclass(frozen=True)
class Structure:
    """Rooms and arrows of one checkout, as sets; a chain and a circle are lists of rooms."""

    rooms: frozenset[str]
    arrows: frozenset[tuple[str, str]]
    longest_chain: tuple[str, ...]
    circles: tuple[tuple[str, ...], ...]
    source_lines: int
    web_lines: int

    @property
    def floors(self) -> int:
        """Number of rooms on the longest chain, a circle counting as one."""
        return len(self.longest_chain)

    def against(self, order: Sequence[str]) -> list[tuple[str, str]] | None:
        """Arrows that lead from a room to one behind it in `order`; None if these are not the rooms of `order`."""
        if self.rooms != set(order):
            return None
        return sorted(arrow for arrow in self.arrows if order.index(arrow[1]) > order.index(arrow[0]))


def structure_of(checkout: Path) -> Structure:
    """Count what lies in ``src/metaq`` and ``web/metaq`` of `checkout`."""
    source = checkout / "src" / "metaq"
    # The entrance that gives the public names is no room: it imports each of them only when it is used.
    files = [path for path in sorted(source.rglob("*.py")) if path.parent != source or path.stem != "__init__"]
    rooms = frozenset(room_of(path, source) for path in files)
    arrows = frozenset(
        (room_of(path, source), room)
        for path in files
        for room in imported_rooms(path)
        if room in rooms and room != room_of(path, source)
    )
    targets = {room: {target for origin, target in arrows if origin == room} for room in rooms}
    circles = circles_of(targets)
    return Structure(
        rooms=rooms,
        arrows=arrows,
        longest_chain=longest_chain(targets, circles),
        circles=circles,
        source_lines=lines_of(source.rglob("*.py")),
        web_lines=lines_of((checkout / "web" / "metaq").rglob("*.js")),
    )


def room_of(path: Path, source: Path) -> str:
    """Name of the room at the top of `source` that holds `path`."""
    return path.relative_to(source).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of metaq that a file imports from, also within functions and for types alone."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}: line {node.lineno} is a relative import; write it in full.")
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "metaq" else [module]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("metaq.")}
    return rooms


def circles_of(targets: Mapping[str, set[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more rooms each of which leads to all others of its group."""
    reached = {room: reachable(room, targets) for room in targets}
    groups = {
        tuple(sorted(other for other in reached[room] if room in reached[other]))
        for room in targets
        if room in reached[room]
    }
    return tuple(sorted(groups))


def reachable(start: str, targets: Mapping[str, set[str]]) -> set[str]:
    """Rooms to which arrows lead from `start`, over any number of rooms."""
    found: set[str] = set()
    waiting = list(targets[start])
    while waiting:
        room = waiting.pop()
        if room not in found:
            found.add(room)
            waiting.extend(targets[room])
    return found


def longest_chain(targets: Mapping[str, set[str]], circles: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The longest chain of arrows, from the top down; the rooms of a circle are joined by ``=``."""
    floor_of = {room: (room,) for room in targets} | {room: circle for circle in circles for room in circle}

    @cache
    def below(floor: tuple[str, ...]) -> tuple[str, ...]:
        next_floors = {floor_of[target] for room in floor for target in targets[room]} - {floor}
        deepest = max((below(other) for other in sorted(next_floors)), key=len, default=())
        return ("=".join(floor), *deepest)

    return max((below(floor) for floor in sorted(set(floor_of.values()))), key=len, default=())


def lines_of(paths: Iterable[Path]) -> int:
    """Lines of all files, as ``wc -l`` counts them."""
    return sum(path.read_bytes().count(b"\n") for path in paths)


def figures_of(structure: Structure) -> dict[str, Any]:
    """What the table shows, as JSON; arrows against the order are None where there are other rooms than in `ORDER`."""
    against = structure.against(ORDER)
    return {
        "rooms": len(structure.rooms),
        "arrows": len(structure.arrows),
        "floors": structure.floors,
        "circles": len(structure.circles),
        "against_order": None if against is None else len(against),
        "source_lines": structure.source_lines,
        "web_lines": structure.web_lines,
        "longest_chain": list(structure.longest_chain),
    }


ROWS = {
    "rooms": f"rooms (at most {MOST_ROOMS})",
    "arrows": "arrows between rooms",
    "floors": f"floors (at most {MOST_FLOORS})",
    "circles": "circles of rooms",
    "against_order": "imports against the order (none)",
    "source_lines": "lines of src/metaq",
    "web_lines": "lines of web/metaq",
}


def table_of(figures: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> str:
    """The figures as a table, with those of the baseline in a column of their own."""
    columns = [("this checkout", figures)] + ([("baseline", baseline)] if baseline else [])
    width = max(map(len, ROWS.values()))
    lines = [" " * width + "".join(f"{title:>16}" for title, _ in columns)]
    for key, label in ROWS.items():
        cells = ["–" if column[key] is None else f"{column[key]:,}" for _, column in columns]
        lines.append(f"{label:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join([*lines, "", "longest chain: " + " → ".join(figures["longest_chain"])])


def main() -> None:
    """Count, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, metavar="FOLDER", help="another checkout, whose figures stand beside")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    options = parser.parse_args()
    figures = figures_of(structure_of(ROOT))
    baseline = figures_of(structure_of(options.baseline)) if options.baseline else None
    print(table_of(figures, baseline), file=sys.stderr if options.json == "-" else sys.stdout)
    write_json({**figures, "baseline": baseline}, options.json)


if __name__ == "__main__":
    main()
