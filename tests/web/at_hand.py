"""Programs that tests of pages need, and may do without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

NODE_MODULES = Path(__file__).parents[2] / "web" / "node_modules"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("node") is None or not NODE_MODULES.is_dir(),
    reason="a browser test needs chromium, node and `npm ci` in web/",
)
