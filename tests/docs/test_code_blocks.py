"""Every command in README.md and the documentation exists, with the options that it is given; nothing runs here."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT, blocks_of, kind_of, lines_of, spans_of
from tasks import TASKS

import metaq
from metaq.cli import app
from metaq.lab.train import TrainConfig, preset

COMMANDS: dict[str, Any] = {name: app.load(name) for name in app.COMMANDS}
ELLIPSIS = "…"
SETTING_UP = {"git clone REPOSITORY metaq", "cd metaq", "python3 -m venv .venv", ". .venv/bin/activate"}
"""Lines by which README.md installs metaq; ``test_commands`` types them."""


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
    if name == "--help":
        return
    context = COMMANDS[name].make_context(name, list(rest))
    settings = context.params.get("assignments") or ()
    TrainConfig().override(settings)
    if context.params.get("preset_name"):
        preset(context.params["preset_name"])


def check_other(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse lines of other programs than ``metaq`` that name what does not exist; none of them runs here."""
    if " ".join(words) in SETTING_UP:
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:2] == ["pip", "install"]:
        extras = [extra for word in words for found in re.findall(r"^\.\[(.+)\]$", word) for extra in found.split(",")]
        assert set(extras) <= set(project["optional-dependencies"])
        assert project["name"] not in " ".join(words), "metaq is not published"
    elif words[:3] == ["python", "-m", "pytest"] or words[0] == "torchrun":
        assert all((ROOT / word).exists() for word in words if "/" in word)
    elif words[0] == "python" and words[1].startswith(("benchmarks/", "docs/pictures/")):
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


def check_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a line that names a command, option, setting, script or target that does not exist."""
    arguments = metaq_of(words)
    if words[:2] == ["python", "-c"]:
        compile(words[2], "line", "exec")
    elif arguments is None:
        check_other(words, monkeypatch)
    else:
        parse(arguments)


# The tests.


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_commands_of_blocks_exist_with_their_options(page, monkeypatch):
    for block in blocks_of(page):
        if block.kind in ("shell", "shown"):
            for words in lines_of(block):
                # Other lines of these are typed.
                if page not in TASKS or metaq_of(words):
                    check_line(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_text_exist_with_their_options(page):
    for span in spans_of(page):
        arguments = metaq_of(span.split())
        if not arguments or not span.startswith(("metaq ", "torchrun ")):
            continue
        if arguments[0] == "--help":
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
        words = shlex.split(span) if span.startswith(("python ", "make ", "pip ")) else []
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
    with pytest.raises(AssertionError, match="not published"):
        check_other(["pip", "install", "metaq-torch[lab]"], monkeypatch)


def test_a_block_of_an_unknown_kind_is_an_error():
    assert [kind_of(info, "ls") for info in ("", "sh", "console", 'python title="a.py"')] == [
        "shell",
        "shell",
        "shown",
        "python",
    ]
    assert kind_of("", "0a1b\n2c3d\n") == "data"
    for info in ("rust", "bash", "sh slow", "python run=no"):
        with pytest.raises(AssertionError):
            kind_of(info, "ls")


def test_the_reference_describes_every_public_name():
    page = (ROOT / "docs/reference/metaq.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^::: metaq\.(\w+)$", page, re.MULTILINE))
    assert described == set(metaq.__all__) - {"__version__"}
