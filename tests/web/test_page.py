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
from handwriting import strokes_of

import metaq
from metaq.lab import data, nets
from metaq.lab.data import to_float

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
MODEL = ROOT / "models" / "lenet5-mnist.metaq"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DIGITS = 100

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("node") is None or not (WEB / "node_modules").exists(),
    reason="a browser test needs chromium, node and `npm ci` in web/",
)


def node(script: str, *arguments: str, text: str = "") -> Any:
    """What a script of web/testing prints, as JSON."""
    done = subprocess.run(
        ["node", str(WEB / "testing" / script), *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_holds_the_shipped_file() -> None:
    page = (WEB / "index.html").read_text()
    found = re.search(r'<script type="text/plain" id="model">(.*?)</script>', page, re.DOTALL)
    assert found
    assert base64.b64decode("".join(found[1].split()), validate=True) == MODEL.read_bytes()
    assert f"{len(MODEL.read_bytes())} bytes" in page


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
def test_the_page_in_every_light() -> None:
    """Wide and narrow, light and dark, without a canvas and without JavaScript: nothing is wrong."""
    found = node("check_page.js", str(CHROMIUM))
    assert found["complaints"] == []
    assert found["violations"] == []
    assert found["overflowing"] == []
    assert found["examples"] == list(range(10))
    assert found["flipped"].count("refused") == found["flips"]
    assert "no canvas" in found["withoutCanvas"]
    assert "Clear" not in found["withoutCanvas"]
    assert "974 bytes" in found["withoutCanvas"]
    assert found["withoutJavaScript"].endswith("which is turned off here.")
