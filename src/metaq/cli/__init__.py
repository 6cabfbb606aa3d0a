"""The command line: arguments in, calls of the other rooms, tables and JSON out. A command is imported when it runs."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line; wrong input, and Ctrl-C, end in one sentence on stderr and a status other than 0."""
    try:
        from metaq.cli.app import run

        run()
    except (KeyboardInterrupt, SystemExit) as error:
        # The one becomes the other wherever a command is under way.
        if isinstance(error, SystemExit) and error.code != INTERRUPTED:
            raise
        sys.stderr.write("metaq: interrupted; nothing half-written was left behind.\n")
        sys.exit(INTERRUPTED)
