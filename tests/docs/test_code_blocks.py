"""Every block of code in README.md and the documentation is run, or checked as far as it can be without its data.

Programs of a page run one after the other, in one namespace and one folder. Lines of shell must be commands that exist
with options that they have; they run, too, unless `why_only_parsed` says why not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import metaq
from metaq.cli import main
from metaq.cli.app import app
from metaq.lab.train import TrainConfig, preset

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

APART = {"README.md"}
"""Pages whose sections stand alone: each begins in a fresh folder, since all write ``model.metaq``."""

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
TITLE = re.compile(r'title="([^"]+)"')
HEXADECIMAL = re.compile(r"(?:[0-9a-f]+\n)+")
ELLIPSIS = "…"

TRAINS = {"train", "sweep", "demo"}
MOST_EPOCHS = 2
"""Trainings of at most so many epochs run."""


@dataclass(frozen=True)
class Block:
    """A block of a page: `kind` is ``python``, ``shell`` or ``data``; `section` counts headings of the second level."""

    kind: str
    text: str
    line: int
    section: int
    title: str | None


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
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
    language = info.partition(" ")[0]
    if language == "python":
        return "python"
    assert language in ("", "console"), f"a block of {language}: write python, or shell without a language"
    return "data" if HEXADECIMAL.fullmatch(body) else "shell"


def lines_of(block: Block) -> list[list[str]]:
    """Words of every command of a block of shell."""
    joined = block.text.replace("\\\n", " ")
    return [shlex.split(line.strip().removeprefix("$ ")) for line in joined.splitlines() if line.strip()]


def spans_of(page: str) -> list[str]:
    """Pieces of code within the text of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text))]


# What a line of shell has to be, program by program.


def metaq_of(words: list[str]) -> list[str] | None:
    """Words after ``metaq``, however it is started; None of other programs."""
    if words[0] == "metaq":
        return words[1:]
    started = [place for place, word in enumerate(words) if word == "metaq" and words[place - 1] == "-m"]
    return words[started[0] + 1 :] if started else None


def parse(arguments: list[str]) -> None:
    """Refuse commands, options and settings that do not exist."""
    name, *rest = arguments
    context = COMMANDS[name].make_context(name, list(rest))
    settings = context.params.get("assignments") or ()
    TrainConfig().override(settings)
    if context.params.get("preset_name"):
        preset(context.params["preset_name"])


def check_other(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse lines of other programs than ``metaq`` that name what does not exist; none of them runs here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:2] == ["pip", "install"]:
        extras = [
            extra
            for word in words
            for found in re.findall(r"^(?:metaq-torch|\.)\[(.+)\]$", word)
            for extra in found.split(",")
        ]
        assert set(extras) <= set(project["optional-dependencies"])
    elif words[:3] == ["python", "-m", "pytest"] or words[0] == "torchrun":
        assert all((ROOT / word).exists() for word in words if "/" in word)
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        check_options(ROOT / words[1], words[2:], monkeypatch)
    elif words[0] == "python" and words[1].startswith("examples/"):
        assert (ROOT / words[1]).is_file()
    else:
        raise AssertionError(f"{shlex.join(words)}: nothing checks lines of this kind")


class ParsedError(Exception):
    """A script has understood its options."""


def check_options(script: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start `script` up to where it has parsed its options."""
    parse_options = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        parse_options(parser, *arguments)
        raise ParsedError

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", stop)
        patched.setattr(sys, "argv", [str(script), *options])
        patched.syspath_prepend(script.parent)
        with pytest.raises(ParsedError):
            runpy.run_path(str(script), run_name="__main__")


def why_only_parsed(arguments: list[str]) -> str | None:
    """Why a command of metaq does not run here, or None if it does."""
    name, *rest = arguments
    params = COMMANDS[name].make_context(name, list(rest)).params
    if name == "reproduce":
        return "the thesis's network is not at hand"
    if name in TRAINS and not (params.get("epochs") or MOST_EPOCHS + 1) <= MOST_EPOCHS:
        return "it trains for minutes"
    needed = [params.get("source"), params.get("start"), params.get("teacher"), params.get("resume")]
    if any(file is not None and Path(file).name.isupper() for file in needed):
        return "its input stands for one of the reader's"
    data = params.get("data")
    if data in ("mnist", "cifar10") and (data == "cifar10" or "METAQ_DATA" not in os.environ):
        return "the images are not at hand"
    return None


def run_metaq(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    with monkeypatch.context() as patched, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        patched.setattr(sys, "argv", ["metaq", *arguments])
        status: Any = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    assert status == 0, f"metaq {shlex.join(arguments)}: {output.getvalue()}"


def run_program(text: str) -> None:
    """Run what ``python -c`` is given; in a process of its own, which takes long, where it asks what is imported."""
    if "sys.modules" in text:
        subprocess.run([sys.executable, "-c", text], check=True)
    else:
        Path("given.py").write_text(text)
        runpy.run_path("given.py")


def check_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = metaq_of(words)
    if words[:2] == ["python", "-c"]:
        run_program(words[2])
    elif arguments is None:
        check_other(words, monkeypatch)
    else:
        parse(arguments)
        if words[0] == "metaq" and why_only_parsed(arguments) is None:
            run_metaq(arguments, monkeypatch)


# The tests.


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bring_files: Any) -> Any:
    """From a page and a section to the folder in which its blocks run, which becomes the current one."""

    def enter(page: str, section: int) -> Path:
        place = tmp_path / str(section if page in APART else 0)
        if not place.exists():
            place.mkdir()
            shutil.copytree(ROOT / "models", place / "models")
            bring_files(page, place)
        monkeypatch.chdir(place)
        monkeypatch.syspath_prepend(place)
        return place

    return enter


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Modules that a page makes are forgotten with it."""
    before = set(sys.modules)
    yield
    for name in [name for name in set(sys.modules) - before if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_blocks_of_a_page_do_what_they_say(page, places, bring_names, monkeypatch):
    names = bring_names(page)
    for block in blocks_of(page):
        place = places(page, block.section)
        if block.kind == "python":
            program = place / (block.title or f"line_{block.line}.py")
            program.write_text(block.text)
            names |= runpy.run_path(str(program), init_globals=names)
        elif block.kind == "shell":
            for words in lines_of(block):
                check_line(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_text_exist_with_their_options(page):
    for span in spans_of(page):
        arguments = metaq_of(span.split())
        if not arguments or not span.startswith(("metaq ", "torchrun ")):
            continue
        assert arguments[0] in COMMANDS, span
        known = {
            spelling for option in COMMANDS[arguments[0]].params for spelling in (*option.opts, *option.secondary_opts)
        }
        given = {word.partition("=")[0] for word in arguments[1:] if re.match(r"--?[a-z]", word)}
        assert given <= known, span


@pytest.mark.parametrize("page", PAGES)
def test_scripts_within_text_exist_with_their_options(page, monkeypatch):
    for span in spans_of(page):
        words = shlex.split(span) if span.startswith(("python ", "make ")) else []
        if not words or ELLIPSIS in span or words[1] == "-c":
            continue
        if len(words) == 2 and words[1].endswith(".py"):
            # Named, not called: it may need options.
            assert (ROOT / words[1]).is_file(), span
        else:
            check_other(words, monkeypatch)


def test_a_wrong_option_is_found(monkeypatch):
    with pytest.raises(Exception, match="--colour"):
        parse(["inspect", "FILE", "--colour"])
    with pytest.raises(metaq.ConfigError, match="strenght"):
        parse(["train", "--set", "regularizer.strenght=1", "--out", "RUN"])
    with pytest.raises(SystemExit):
        check_options(ROOT / "benchmarks/codec.py", ["--colour"], monkeypatch)
    with pytest.raises(AssertionError, match="nothing checks"):
        check_other(["curl", "somewhere"], monkeypatch)
    with pytest.raises(AssertionError, match="a block of rust"):
        kind_of("rust", "fn main() {}")


def test_the_reference_describes_every_public_name():
    page = (ROOT / "docs/reference/metaq.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^::: metaq\.(\w+)$", page, re.MULTILINE))
    assert described == set(metaq.__all__) - {"__version__"}
