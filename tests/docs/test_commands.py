"""Pages of README.md and the documentation, typed from top to bottom.

Programs of a page share their names, commands run in a shell, and both share one folder that holds the files of
``models`` and what ``conftest`` brings for this page.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import APART, PAGES, ROOT, Block, blocks_of
from tasks import TASKS, minutes_of, shell_environment, type_lines, type_task

NOT_RUN = {
    "MODELS.md": "trainings on MNIST, a quarter of an hour to an hour each",
    "docs/index.md": "a download of PyTorch",
    "docs/choosing.md": "trainings on CIFAR-10, hours each",
    "docs/how-to/any-file.md": "a file of one's own",
    "docs/how-to/calibration.md": "an ONNX file and inputs of one's own",
    "docs/how-to/torchrun.md": "a training on MNIST",
    "docs/how-to/updates.md": "models of one's own",
    "docs/results.md": "trainings on CIFAR-10, hours each",
}
"""Why a page shows commands, in blocks of ``console``, that do not run here."""

IMAGES = re.compile(r"--data mnist")

SHOWN_BY_OTHERS = (
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers:UserWarning",
    "ignore:The number of training batches:UserWarning",
    "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning",
)


def with_filters(function: Any) -> Any:
    """Let through what trainers of others warn of."""
    for text in SHOWN_BY_OTHERS:
        function = pytest.mark.filterwarnings(text)(function)
    return function


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bring_files: Any) -> Any:
    """From a page and a section to the folder in which its blocks run, which becomes the current one."""

    def enter(page: str, section: int) -> Path:
        place = tmp_path / str(section if page in APART else 0)
        if not place.exists():
            place.mkdir()
            for folder in ("models", "examples"):
                shutil.copytree(ROOT / folder, place / folder)
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


def run_program(block: Block, place: Path, names: dict[str, Any]) -> dict[str, Any]:
    """All names after a program of a page that begins with `names`."""
    program = place / (block.title or f"line_{block.line}.py")
    program.write_text(block.text, encoding="utf-8")
    return names | runpy.run_path(str(program), init_globals=names)


def installs(block: Block) -> bool:
    """Whether a block sets metaq up; `test_metaq_is_installed_as_the_pages_say` types it."""
    return "git clone" in block.text


def page_of(*kinds: str) -> list[str]:
    """Pages with a block of one of these kinds, but for those that are typed as a whole."""
    return [page for page in PAGES if page not in TASKS and any(block.kind in kinds for block in blocks_of(page))]


@pytest.mark.slow
@with_filters
@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("page", page_of("shell"))
def test_a_page_works_as_typed(page: str, places: Any, bring_names: Callable[[str], dict[str, Any]]) -> None:
    names, left_out = bring_names(page), []
    for block in blocks_of(page):
        place = places(page, block.section)
        names = bring_names(page) if page in APART else names
        if block.kind == "python":
            names = run_program(block, place, names)
        elif block.kind == "shell" and not installs(block):
            if IMAGES.search(block.text) and "METAQ_DATA" not in os.environ:
                left_out.append(block.text)
            else:
                type_lines(block.text, place, shell_environment())
    if left_out:
        pytest.skip(f"MNIST is not at hand; all but these commands passed: {' '.join(left_out)}")


@with_filters
@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("page", page_of("python"))
def test_programs_of_a_page_run(page: str, places: Any, bring_names: Callable[[str], dict[str, Any]]) -> None:
    names = bring_names(page)
    for block in blocks_of(page):
        names = bring_names(page) if page in APART else names
        if block.kind == "python":
            names = run_program(block, places(page, block.section), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", TASKS)
def test_a_task_is_done_from_an_empty_folder(page: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    environment = shell_environment()
    environment["PYTHONPATH"] = environment["PIP_TARGET"] = str(tmp_path / "installed")
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    place = tmp_path / "empty"
    place.mkdir()
    type_task(page, place, environment)


def test_tasks_take_at_most_three_minutes() -> None:
    assert len(TASKS) == 6
    assert all((minutes_of(page) or 0) <= 3 for page in TASKS)


def test_commands_that_do_not_run_are_few_and_known() -> None:
    assert set(page_of("shown")) == set(NOT_RUN)


def test_a_line_that_fails_is_found(tmp_path: Path) -> None:
    type_lines("metaq --help\nmkdir one\n", tmp_path, shell_environment())
    assert (tmp_path / "one").is_dir()
    for text in ("metaq inspect missing.metaq\ntrue\n", "false | true\n", "no-such-command\n"):
        with pytest.raises(AssertionError):
            type_lines(text, tmp_path, shell_environment())


CLONE = """#!/bin/sh
# git clone REPOSITORY metaq, from the files at hand.
test "$1 $2 $3" = "clone REPOSITORY metaq" || exit 2
mkdir "$3"
cd {root}
cp -r pyproject.toml README.md LICENSE src c "$OLDPWD/$3"
"""


@pytest.mark.slow
def test_metaq_is_installed_as_the_pages_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an environment of its own; the packages that metaq needs are those of this one, as tests use no network."""
    pytest.importorskip("hatchling")
    first, *others = [block for page in PAGES for block in blocks_of(page) if installs(block)]
    assert all(other.text == first.text for other in others)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").write_text(CLONE.format(root=ROOT))
    (programs / "git").chmod(0o755)
    packages = [place for place in sys.path if place.endswith("site-packages")]
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(packages))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_DEPS", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")
    check = "python -c 'import metaq; print(metaq.__file__)' > ../where\n"
    variables = {name: os.environ[name] for name in os.environ if name.startswith("PYTHONPATH")}
    type_lines(first.text + check, tmp_path, shell_environment() | variables)
    assert Path((tmp_path / "where").read_text().strip()) == tmp_path / "metaq/src/metaq/__init__.py"
