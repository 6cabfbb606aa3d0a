"""``python -m metaq`` is the command ``metaq``."""

from metaq.cli import main

main()
