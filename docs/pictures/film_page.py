"""Films the page that reads handwriting, in a browser that draws some digits.

    python docs/pictures/film_page.py --out docs/pictures/handwriting.gif

needs Chromium, Node.js, and `npm ci` in web/.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

WEB = Path(__file__).parents[2] / "web"
DIGITS = "384"
MILLISECONDS = 140
COLOURS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the GIF")
    parser.add_argument("--digits", default=DIGITS, help="what is drawn")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is needed: install it, or put it on the path.")
    with TemporaryDirectory() as folder:
        script = WEB / "testing" / "film_page.js"
        subprocess.run(["node", str(script), chromium, folder, *options.digits], check=True)
        first, *others = [
            Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS)
            for path in sorted(Path(folder).glob("*.png"))
        ]
        first.save(options.out, save_all=True, append_images=others, duration=MILLISECONDS, loop=0, optimize=True)


if __name__ == "__main__":
    main()
