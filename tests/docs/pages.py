"""Blocks of code in README.md, the other pages of the repository's root, and the documentation."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

APART = {"README.md"}
"""Pages whose sections stand alone: each begins in a fresh folder, since all write ``model.metaq``."""

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
TITLE = re.compile(r'title="([^"]+)"')
HEXADECIMAL = re.compile(r"(?:[0-9a-f]+\n)+")

KINDS = {"python": "python", "": "shell", "sh": "shell", "console": "shown", "c": "c", "html": "html"}
"""Kind of a block by its language. Lines of shell run; options of those that are shown have to exist; C compiles."""


@dataclass(frozen=True)
class Block:
    """A block of a page; `kind` is one of those of :data:`KINDS` or ``data``, `section` counts ``##`` headings."""

    kind: str
    text: str
    line: int
    section: int
    title: str | None


def text_of(page: str) -> str:
    """A page as it is written."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in its order."""
    text = text_of(page)
    prose = FENCE.sub(lambda found: "x\n" * found[0].count("\n") + "x", text)
    found = [(match.start(), match[1].strip(), match[2]) for match in FENCE.finditer(text)]
    starts = [(text.count("\n", 0, start) + 1, info, body) for start, info, body in found]
    starts += [(prose.count("\n", 0, match.start()) + 1, "", match[0]) for match in INDENTED.finditer(prose)]
    headings = [prose.count("\n", 0, match.start()) + 1 for match in re.finditer(r"^## ", prose, re.MULTILINE)]
    return [
        Block(
            kind=kind_of(info, body),
            text=body,
            line=line,
            section=sum(heading < line for heading in headings),
            title=found[1] if (found := TITLE.search(info)) else None,
        )
        for line, info, body in sorted(starts)
    ]


def kind_of(info: str, body: str) -> str:
    """Kind of a block with the info string `info`; any other language is an error."""
    language, _, rest = info.partition(" ")
    assert language in KINDS, f"a block of {language}: write python, c, sh, or console for what does not run here"
    assert not rest or TITLE.fullmatch(rest), f'{info}: write title="…" after the language, or nothing'
    return "data" if not language and HEXADECIMAL.fullmatch(body) else KINDS[language]


def lines_of(block: Block) -> list[list[str]]:
    """Words of every command of a block of shell."""
    joined = block.text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.strip()]
    return [shlex.split(part) for line in lines for part in line.split(" && ")]


def spans_of(page: str) -> list[str]:
    """Pieces of code within the text of a page."""
    text = text_of(page)
    return [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text))]
