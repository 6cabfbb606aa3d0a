"""The command line."""

from metaq.cli.app import main

__all__ = ["main"]
