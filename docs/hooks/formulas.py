"""Formulas as drawings: no script and no font has to be loaded to read them."""

from __future__ import annotations

import html
import re
import warnings
from functools import cache
from xml.etree import ElementTree

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

with warnings.catch_warnings():
    # It finds its font by a function that newer versions of Python call deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ziamath

SIZE = 20.0
"""Units of a drawing that make one em of text, so that formulas grow with the text around them."""

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
TAG = re.compile(r"\\tag\{(.*?)\}")
MATHML = "{http://www.w3.org/1998/Math/MathML}"

ziamath.config.math.color = "currentColor"
ziamath.config.svg2 = False


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the formulas of a page."""
    del page, config, files
    content = DISPLAY.sub(lambda found: _displayed(html.unescape(found[1]).strip()), content)
    return INLINE.sub(lambda found: _drawn(html.unescape(found[1]), "inline"), content)


def _displayed(latex: str) -> str:
    tag = TAG.search(latex)
    number = f'<span class="formula-number">({html.escape(tag[1])})</span>' if tag else ""
    return f'<div class="formula"><div>{_drawn(TAG.sub("", latex), "block")}</div>{number}</div>'


@cache
def _drawn(latex: str, display: str) -> str:
    """SVG of a formula, with its LaTeX for those who hear it or look at the source."""
    tree = ElementTree.fromstring(convert(latex, display=display))
    for sign in tree.iter(f"{MATHML}mo"):
        # A sum has one size; brackets that grow with it would make it grow with them.
        if sign.text == "∑":
            sign.set("stretchy", "false")
    if display == "block":
        _put_limits_below(tree)
    drawing = ziamath.Math(tree, size=SIZE)
    svg = drawing.svgxml()
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.get(side, 0)) / SIZE:.3f}em")
    svg.set("style", f"vertical-align: {drawing.getyofst() / SIZE:.3f}em")
    svg.set("class", "formula-drawing")
    svg.set("role", "img")
    svg.set("aria-label", " ".join(latex.split()))
    return ElementTree.tostring(svg, encoding="unicode")


def _put_limits_below(tree: ElementTree.Element) -> None:
    """What stands below min and max takes up room of its own."""
    for node in tree.iter(f"{MATHML}msub"):
        if node[0].text in ("min", "max"):
            node.tag = f"{MATHML}munder"
