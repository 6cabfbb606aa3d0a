"""Pages of the documentation in a headless browser, wide and narrow, light and dark; and what its search knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from at_hand import CHROMIUM, needs_browser

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"

LOOKED_AT = ("", "method/", "measured/", "how-to/onnx-and-browser/", "reference/commands/", "notebooks/your-model/")
FOUND = {
    "pth": "how-to/shrink/",
    "raspberry": "how-to/devices/",
    "browser": "how-to/onnx-and-browser/",
    "onnx": "how-to/onnx-and-browser/",
    "lora": "how-to/hugging-face/",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as strictly as `make docs` does."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@needs_browser
def test_pages_can_be_read_by_everybody(site: Path) -> None:
    pages = [f"{page}index.html" for page in LOOKED_AT]
    command = ["node", str(WEB / "testing" / "check_site.js"), str(CHROMIUM), str(site), "-", *pages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 4 * len(LOOKED_AT)
    clean = {"overflow": 0, "cut": [], "latex": [], "violations": [], "complaints": []}
    assert not [each for each in found if {key: each[key] for key in clean} != clean]


@pytest.mark.slow
@pytest.mark.parametrize(("word", "page"), FOUND.items())
def test_the_search_finds_what_people_look_for(word: str, page: str, site: Path) -> None:
    """Where the word is in the title, or in the first lines, of a page by task."""
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    having = [entry["location"] for entry in entries if word in f"{entry['title']} {entry['text']}".lower()]
    assert any(location.startswith(page) for location in having)
