"""Types the how-to pages that start from an empty folder, and compares with the minutes that they say.

    python tests/docs/tasks.py [PAGE …]

makes a fresh environment with metaq and its extras, then types each page into an empty folder of its own. Installing
is timed by itself, as pages count from where metaq is installed. Ends with 1 if a page takes longer than it says.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from pages import PAGES, ROOT, Block, blocks_of, text_of

MINUTES = re.compile(r"from an\s+empty\s+folder, this takes (\d+) minutes?\b")
BEGINNING = re.compile(r"are those of \[[^\]]+\]\(shrink\.md#a-model\)")
SHRINK = "docs/how-to/shrink.md"
EXTRAS = "lab,onnx,transformers"


def minutes_of(page: str) -> int | None:
    """What a page says that it takes; None of pages that do not start from an empty folder."""
    found = MINUTES.search(text_of(page))
    return int(found[1]) if found else None


TASKS = [page for page in PAGES if minutes_of(page)]


def typed_blocks(page: str) -> list[Block]:
    """Blocks in the order in which a reader comes to them, with the model of another page where one is asked for."""
    before = [block for block in blocks_of(SHRINK) if block.section == 1] if BEGINNING.search(text_of(page)) else []
    return before + blocks_of(page)


def type_task(page: str, place: Path, environment: dict[str, str]) -> None:
    """Write the files of a page into the folder `place`, and give its commands to shells there."""
    for block in typed_blocks(page):
        if block.title:
            (place / block.title).write_text(block.text, encoding="utf-8")
        elif block.kind == "shell":
            type_lines(block.text.replace("METAQ/", f"{ROOT}/"), place, environment)


def type_lines(text: str, place: Path, environment: dict[str, str]) -> None:
    """Give `text` to a fresh shell that ends at the first line that fails."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail"],
        input=text,
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def shell_environment(programs: Path = Path(sys.executable).parent) -> dict[str, str]:
    """The variables of a shell in which the environment with these `programs` is active."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    return {**kept, "PATH": os.pathsep.join([str(programs), os.environ["PATH"]])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="names of pages, such as shrink; all by default")
    names = parser.parse_args().pages
    late = 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, "environment")
        venv.create(fresh, with_pip=True)
        environment = shell_environment(fresh / "bin")
        start = time.monotonic()
        needed = (
            f"pip install -q -c constraints.txt torch\npip install -q -c constraints.txt '.[{EXTRAS}]' onnxruntime\n"
        )
        type_lines(needed, ROOT, environment)
        print(f"installed in {time.monotonic() - start:.0f} s")
        for page in TASKS:
            name = Path(page).stem
            if names and name not in names:
                continue
            place = Path(folder, name)
            place.mkdir()
            start = time.monotonic()
            type_task(page, place, environment)
            seconds, allowed = time.monotonic() - start, 60 * (minutes_of(page) or 0)
            late += seconds > allowed
            print(f"{name:18} {seconds:5.0f} s of {allowed} s")
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main())
