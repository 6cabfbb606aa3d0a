"""The page that draws and reads digits, in a headless browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from at_hand import CHROMIUM, needs_browser
from handwriting import strokes_of

import metaq
from metaq.lab import data, nets
from metaq.lab.data import to_float

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
MODEL = ROOT / "models" / "lenet5-mnist.metaq"
DIGITS = 100


def node(script: str, *arguments: str, text: str = "") -> Any:
    """What a script of web/testing prints, as JSON."""
    done = subprocess.run(
        ["node", str(WEB / "testing" / script), *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(params=["served", "from disk"])
def page_options(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Options of a script of web/testing for the page as `make web` serves it, and as a single file."""
    if request.param == "served":
        return []
    out = tmp_path / "page with a space.html"
    subprocess.run(["node", str(WEB / "build_page.js"), str(out)], check=True)
    return ["--page", str(out)]


def test_the_page_holds_the_shipped_files() -> None:
    """If not, `node web/embed_models.js` writes web/models.js anew."""
    embedded = re.findall(r'name: "(.*?)",\s+accuracy: (.*?),\s+base64: `(.*?)`', (WEB / "models.js").read_text(), re.S)
    table = (ROOT / "MODELS.md").read_text()
    assert len(embedded) == 3
    for name, accuracy, text in embedded:
        shipped = (ROOT / "models" / f"{name}.metaq").read_bytes()
        assert base64.b64decode("".join(text.split()), validate=True) == shipped
        assert f"| {len(shipped):,} | {float(accuracy):.2f} % |" in table
    assert f"{MODEL.stat().st_size} bytes" in (WEB / "index.html").read_text()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_all_networks_answer_as_in_pytorch() -> None:
    """Noise of every strength gives the same probabilities."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 784)) * np.linspace(0, 1, 12)[:, None]
    pictures = torch.tensor(noise).to(torch.uint8)
    names = ["lenet5", "lenet5-caffe", "lenet300"]
    files = [ROOT / "models" / f"{name}-mnist.metaq" for name in names]
    found = node("run_networks.js", *map(str, files), text=json.dumps(pictures.tolist()))
    for name, file, probabilities in zip(names, files, found, strict=True):
        network = nets.create(name)
        network.load_state_dict(metaq.load(file))
        with torch.no_grad():
            expected = network(to_float(pictures.reshape(-1, 1, 28, 28))).softmax(1).numpy()
        assert np.abs(np.array(probabilities) - expected).max() <= 1e-4


@pytest.mark.slow
@needs_browser
def test_handwriting_is_read_as_pytorch_reads_it() -> None:
    """100 digits of the test set of MNIST, retraced by the mouse: 95 are read right, with PyTorch's probabilities."""
    try:
        test = data.load("mnist").test
    except metaq.errors.DataError as error:
        pytest.skip(str(error))
    images, labels = test.images[:DIGITS, 0].numpy(), test.labels[:DIGITS].numpy()
    found = node("read_digits.js", str(CHROMIUM), text=json.dumps([strokes_of(image) for image in images]))
    assert found["complaints"] == []

    pictures = torch.tensor([digit["picture"] for digit in found["digits"]], dtype=torch.uint8).reshape(-1, 1, 28, 28)
    network = nets.create("lenet5")
    network.load_state_dict(metaq.load(MODEL))
    with torch.no_grad():
        expected = network(to_float(pictures)).softmax(1).numpy()
    probabilities = np.array([digit["probabilities"] for digit in found["digits"]])
    assert np.abs(probabilities - expected).max() <= 1e-4
    assert (probabilities.argmax(1) == labels).sum() >= 95


@pytest.mark.slow
@needs_browser
def test_the_page_in_every_light(page_options: list[str]) -> None:
    """Wide and narrow, light and dark, without a canvas and without JavaScript: nothing is wrong."""
    found = node("check_page.js", str(CHROMIUM), *page_options)
    for wrong in ("complaints", "violations", "overflowing", "bright", "hiddenAnswers", "misplacedMarks"):
        assert found[wrong] == [], wrong
    assert found["examples"] == list(range(10))
    assert found["saidOf8"] == "I read an 8."
    assert all(re.fullmatch(r"\d+(\.\d)?\sms", time) for time in found["times"])
    assert all("refused. " in said for said in found["flipped"])
    no_file, version, *others = found["anyway"]
    assert no_file == "Even without its checksum the file is refused. This is not a .metaq file."
    assert "which needs a newer reader" in version
    answers = r"Without checks, [\d,]+ of 44,426 weights would have been others. Of the ten digits .* reads \d+ right: "
    assert any(re.match(answers, said) for said in others)
    assert "no canvas" in found["withoutCanvas"]
    assert "Clear" not in found["withoutCanvas"]
    assert "974 bytes" in found["withoutCanvas"]
    assert found["withoutJavaScript"].endswith("which is turned off here.")
    for card, sizes in zip(found["cards"], ["974 99.14", "1,473 99.19", "2,325 98.42"], strict=True):
        size, accuracy = sizes.split()
        assert f"\n8\n100.0 %\n{size} bytes\n{accuracy} % right on MNIST\n" in card
        assert re.search(r"decoded in [\d.]+\sms\nread in [\d.]+\sms$", card)


@pytest.mark.slow
@needs_browser
def test_the_code_gives_the_file_byte_for_byte(page_options: list[str]) -> None:
    """A library reads it from screenshots, and the page from pictures of the code seen from aside."""
    found = node("check_codes.js", str(CHROMIUM), *page_options)
    assert found["complaints"] == []
    assert len(found["codes"]) == len(found["read"]) == 2
    for code, read in zip(found["codes"], found["read"], strict=True):
        assert base64.b64decode(code) == MODEL.read_bytes()
        assert bytes.fromhex(read["bytes"]) == MODEL.read_bytes()
        assert read["status"] == "974 bytes read from the picture: LeNet-5, which now reads what you draw."
        assert "from a QR code" in read["cards"][-1]
    assert all(said.startswith("No QR code is read from this picture.") for said in found["refused"])
