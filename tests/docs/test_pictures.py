"""Pictures of README and the pages come from scripts, and show what the pages say."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"


def test_the_picture_of_the_bank_shows_every_row_of_the_table(tmp_path: Path) -> None:
    script = PICTURES / "draw_bank.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path / "bank.png")], check=True)
    assert (tmp_path / "bank.png").read_bytes().startswith(b"\x89PNG")
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = text.split("## Beside other ways, at equal quality")[1].split("\n## ")[0]
    rows = runpy.run_path(str(script))["rows_of"](text)
    assert len(rows) == len(re.findall(r"^\| [^-|]", table, re.MULTILINE)) - 1 > 0
    assert all(size < row.other for row in rows for size in (row.without, row.calibrated) if size)


def test_every_picture_is_shown_on_a_page() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for picture in PICTURES.iterdir():
        assert picture.suffix == ".py" or f"pictures/{picture.name}" in text, picture.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700
