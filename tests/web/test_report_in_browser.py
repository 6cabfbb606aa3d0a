"""The report in Chromium: nothing overflows, nothing is asked for, tables sort, axe finds nothing serious.

Every page is opened wide and narrow, light and dark.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from metaq.model.applying import model_of
from metaq.report import gathering, page
from metaq.report.changes import changes
from metaq.report.subject import Accuracy

from ..report.test_page import record

ROOT = Path(__file__).parents[2]
SPECIFICATION = ROOT / "web" / "testing" / "report_page.mjs"
PACKAGES = ("playwright-core", "axe-core")
MODEL = ROOT / "models" / "lenet5-mnist.metaq"
OTHER = ROOT / "models" / "lenet5-caffe-mnist.metaq"

MEASURED = """
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";
import { pathToFileURL } from "node:url";
const [executablePath, file] = process.argv.slice(1);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
await page.goto(pathToFileURL(file).href);
const found = await page.evaluate(() => ({
  cut: [...document.querySelectorAll("main > section > .scroll")]
    .filter((each) => each.scrollWidth > each.clientWidth)
    .map((each) => each.getAttribute("aria-label")),
  sides: [...document.querySelectorAll(".side")].map((each) => [each.className, each.getBoundingClientRect().left]),
  marks: [...new Set([...document.querySelectorAll(".mark")].map((each) => getComputedStyle(each).backgroundColor))],
}));
await page.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
await page.evaluate(await readFile("node_modules/axe-core/axe.min.js", "utf8"));
const { violations } = await page.evaluate(() => globalThis.axe.run());
const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id }) => id);
console.log(JSON.stringify({ ...found, serious }));
await browser.close();
"""


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
    run = replace(
        subject,
        after=Accuracy(percent=99.2, what="weights restored from the file, on the test images of mnist"),
        before=Accuracy(percent=99.3, what="float weights in epoch 3, on the validation images of mnist"),
        seconds=61.0,
        goal="at most 1,000 bytes",
        records=[record(epoch, quantized_accuracy=90.0 + epoch) for epoch in range(1, 9)],
        kept_epoch=8,
        environment={"command": "metaq train --preset lenet5-mnist --target-bytes 1000 --out run", "python": "3.11"},
        config={"net": "lenet5", "data": "mnist"},
        missing={},
    )
    (folder / "file.html").write_text(page.render([subject]))
    (folder / "run.html").write_text(page.render([run]))
    (folder / "two.html").write_text(page.render([subject, run]))
    (folder / "long.html").write_text(page.render([long]))
    (folder / "two-long.html").write_text(page.render([long, subject]))
    return folder


def opened(chromium, program, *arguments):
    """What a program for Node.js prints as JSON that is told the path of the browser and more."""
    done = subprocess.run(
        ["node", *program, chromium, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=900, cwd=ROOT / "web",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_page_works_in_a_browser(chromium, pages):
    files = sorted(map(str, pages.glob("*.html")))
    results = opened(chromium, [str(SPECIFICATION)], *files)
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


@pytest.mark.slow
def test_two_are_beside_each_other_in_two_colours_and_their_tables_fit_a_screen(chromium, tmp_path):
    subjects = [gathering.gather(MODEL), gathering.gather(OTHER)]
    (tmp_path / "two.html").write_text(page.render(subjects, changes(model_of(MODEL), model_of(OTHER))))
    found = opened(chromium, ["--input-type=module", "--eval", MEASURED], tmp_path / "two.html")
    assert found["serious"] == []
    assert found["cut"] == []
    assert len(found["marks"]) == 2
    lefts = {name: {left for each, left in found["sides"] if each == name} for name in ("side a", "side b")}
    assert all(len(values) == 1 for values in lefts.values())
    assert min(lefts["side b"]) > max(lefts["side a"]) + 400
