"""The report in Chromium: nothing overflows, nothing is asked for, tables sort, axe finds nothing serious."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from metaq.report import gathering, page

ROOT = Path(__file__).parents[2]
SPECIFICATION = ROOT / "web" / "testing" / "report_page.mjs"
PACKAGES = ("playwright-core", "axe-core")
MODEL = ROOT / "models" / "lenet5-mnist.metaq"


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None or shutil.which("node") is None:
        pytest.skip("a browser is not at hand: install chromium and node")
    missing = [name for name in PACKAGES if not (ROOT / "web" / "node_modules" / name).is_dir()]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not at hand: run npm ci in web")
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    subject = gathering.gather(MODEL)
    long = replace(subject, name="a/very/long-name-" * 8, title="a-title-without-a-space-" * 8)
    (folder / "one.html").write_text(page.render([subject]))
    (folder / "two.html").write_text(page.render([subject, long]))
    (folder / "long.html").write_text(page.render([long]))
    return folder


@pytest.mark.slow
def test_the_page_works_in_a_browser(chromium, pages, tmp_path):
    files = sorted(map(str, pages.glob("*.html")))
    done = subprocess.run(
        ["node", str(SPECIFICATION), chromium, *files],
        capture_output=True, text=True, check=False, timeout=900, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == 4 * len(files)
    for result in results:
        assert result["overflow_pixels"] <= 0, result
        assert result["serious"] == [], result
        assert result["complaints"] == [], result
        assert result["requests"] == [], result
    sorted_by = [result["sorted"] for result in results if "sorted" in result]
    assert len(sorted_by) == len(results)
    for order in sorted_by:
        assert order["first"] == ["ascending", sorted(order["values"])]
        assert order["second"] == ["descending", sorted(order["values"], reverse=True)]
