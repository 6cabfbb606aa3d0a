"""A name for the search, for those who hear the page."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

SEARCH = 'data-md-component="search" role="dialog"'


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Name what the theme leaves without a name."""
    del page, config
    return output.replace(SEARCH, f'{SEARCH} aria-label="Search"')
