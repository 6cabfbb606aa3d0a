"""The command line: arguments in, calls of the other rooms, tables and JSON out. A command is imported when it runs."""

from metaq.cli.app import main

__all__ = ["main"]
