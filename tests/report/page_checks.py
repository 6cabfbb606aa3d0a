"""What can be told of a page without a browser."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "img", "link", "br", "wbr", "input", "hr", "base"}
INSIDE = ("#", "data:image/png;base64,", "data:image/svg+xml;base64,")
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


@dataclass
class Element:
    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def all(self, *names: str) -> list[Element]:
        """Elements within, in order; of these names, if any are given."""
        return [each for each in self._walk() if not names or each.name in names]

    def _walk(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._walk()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("")
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice: {attrs}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1].name == tag, f"</{tag}> ends <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parsed(page: str) -> Element:
    """The page as a tree; every element must be closed in its place."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.root], "an element is not closed"
    return parser.root


def check(page: str) -> Element:
    """Assert what every page keeps, and give its tree."""
    root = parsed(page)
    check_policy(page, root)
    check_structure(root)
    check_alternatives(root)
    check_tables(root)
    return root


def check_policy(page: str, root: Element) -> None:
    """Nothing comes from elsewhere, and only the style and the program of the package run."""
    (policy,) = (
        meta.attributes["content"]
        for meta in root.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for name, rule in (("style", "style-src"), ("script", "script-src")):
        (element,) = root.all(name)
        digest = base64.b64encode(sha256(element.text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
        assert element.attributes == {}
    for element in root.all():
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"], element
        for name in ("src", "href", "action", "data", "srcset", "xlink:href"):
            value = element.attributes.get(name)
            assert value is None or value.startswith(INSIDE), (element.name, value)
    assert not re.search(r"@import|url\(", page)


def check_structure(root: Element) -> None:
    """Language, title, landmarks, headings without gaps, names of places that lead somewhere."""
    (html,) = root.all("html")
    assert html.attributes["lang"] == "en"
    (title,) = html.all("head")[0].all("title")
    assert title.text.strip()
    assert len(root.all("main")) == 1
    levels = [int(heading.name[1]) for heading in root.all(*HEADINGS)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert all(heading.text.strip() for heading in root.all(*HEADINGS))
    ids = [element.attributes["id"] for element in root.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in root.all():
        target = element.attributes.get("href") or ""
        named = (element.attributes.get("aria-labelledby") or "").split()
        assert set(named) <= set(ids)
        assert not target.startswith("#") or target[1:] in ids


def check_alternatives(root: Element) -> None:
    """Every picture says what it shows or is hidden; what scrolls or is pressed has a name."""
    within = {id(inner) for outer in root.all("svg") for inner in outer.all("svg")}
    for picture in (each for each in root.all("svg") if id(each) not in within):
        is_hidden = picture.attributes.get("aria-hidden") == "true"
        is_named = picture.attributes.get("role") == "img" and (picture.attributes.get("aria-label") or "").strip()
        assert is_hidden or is_named, picture.attributes
    assert all((image.attributes.get("alt") or "").strip() for image in root.all("img"))
    for element in root.all():
        if element.attributes.get("role") == "region":
            assert (element.attributes.get("aria-label") or "").strip()
            assert element.attributes.get("tabindex") == "0"
    assert all(each.text.strip() or each.attributes.get("aria-label") for each in root.all("button", "a", "summary"))


def check_tables(root: Element) -> None:
    """Tables have a caption, and headers that say what they are of; rows are as wide as the head."""
    for table in root.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(header.attributes.get("scope") in ("col", "row") for header in table.all("th"))
        assert {len(row.all("th", "td")) for row in table.all("tr")} == {len(table.all("thead")[0].all("th"))}
