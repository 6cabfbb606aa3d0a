"""A page that loads anything from another host is refused: the site has to work without a network."""

from __future__ import annotations

import logging
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=[\"']((?:https?:)?//[^\"']+)")

_LOGGER = logging.getLogger("mkdocs.hooks.offline")


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Warn, which ends a strict build, of everything that is loaded from elsewhere."""
    del config
    for address in LOADED.findall(output):
        _LOGGER.warning("%s loads %s; the site has to work without a network.", page.file.src_uri, address)
    return output
