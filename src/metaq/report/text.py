"""Names and sentences from files, as a page can show them."""

import re

from markupsafe import Markup

MOST_NAME_CHARACTERS = 120
"""Shown of either end of a name."""


def printable(text: str) -> str:
    """A line with what does not print, directions of writing among it, as its number.

    Examples
    --------
    >>> printable("a\\x00b")
    'a\\\\x00b'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shown(text: object) -> str:
    """A name or a sentence as it can be shown: printable, and without its middle if it is very long."""
    plain, half = printable(str(text)), MOST_NAME_CHARACTERS
    return plain if len(plain) <= 2 * half else f"{plain[:half]} … {plain[-half:]}"


def breakable(text: object) -> Markup:
    """A dotted name as :func:`shown`, that may be continued on the next line after any of its parts.

    Examples
    --------
    >>> print(breakable("fc1.bias"))
    fc1.<wbr>bias
    """
    return Markup("<wbr>").join(re.split(r"(?<=[._/])(?![._/]|$)", shown(text)))
