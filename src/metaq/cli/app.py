"""The application: its commands, and what becomes of their errors."""

from __future__ import annotations

import sys

import typer

from metaq.cli import (
    compress,
    decompress,
    demo,
    evaluate,
    export,
    inspect,
    output,
    quantize,
    report,
    reproduce,
    sweep,
    train,
)
from metaq.errors import MetaqError

USAGE_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="metaq",
    help="Train neural networks to a small entropy and ship them as small, bit-exact files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (train, quantize, compress, decompress, export, evaluate, inspect, report, demo, reproduce, sweep):
    command.register(app)


def main() -> None:
    """Run the command line; wrong input ends in one sentence on stderr and exit status 2."""
    try:
        app(standalone_mode=True)
    except MetaqError as error:
        output.error(str(error))
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        output.error("interrupted; nothing half-written was left behind.")
        sys.exit(INTERRUPTED)
