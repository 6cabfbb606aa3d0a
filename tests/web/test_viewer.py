"""Files of a visitor, shown by the page in a headless browser."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from at_hand import CHROMIUM, needs_browser

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("is_from_disk", [False, True], ids=["served", "from disk"])
def test_the_page_shows_any_file_that_is_dropped_or_chosen(tmp_path: Path, is_from_disk: bool) -> None:
    golden = sorted((ROOT / "tests" / "golden").glob("*.metaq"))
    damaged = tmp_path / "damaged.metaq"
    damaged.write_bytes(golden[0].read_bytes()[:-7])
    other = tmp_path / "other.metaq"
    other.write_text("no such file")
    paths = [ROOT / "models" / "lenet5-mnist.metaq", *golden, damaged, other]
    page = tmp_path / "page.html"
    if is_from_disk:
        subprocess.run(["node", str(WEB / "build_page.js"), str(page)], check=True)
    options = ["--page", str(page)] if is_from_disk else []
    done = subprocess.run(
        ["node", str(WEB / "testing" / "check_viewer.js"), str(CHROMIUM), *map(str, paths), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["complaints"] == []
    assert found["violations"] == []
    assert not found["overflowing"]
    for path, file in zip(paths[:-2], found["files"], strict=False):
        said = re.search(r"hold ([\d,]+) tensors", file["status"])
        assert said, f"{path.name}: {file['status']}"
        assert len(file["rows"]) == int(said[1].replace(",", "")) > 0
    assert found["last"] == found["files"][1]["status"]
    lenet = found["files"][0]
    assert lenet["status"].startswith("lenet5-mnist.metaq: 974 bytes hold 10 tensors with 44,426 elements")
    assert any(row.startswith("fc1.weight120 × 256float32122,880 bytes") and "99.1 %" in row for row in lenet["rows"])
    for file in found["files"][-2:]:
        assert file["rows"] == []
        assert file["status"].endswith(".")
