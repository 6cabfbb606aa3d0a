"""The application: its commands, and what becomes of their errors."""

import io
import sys
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from metaq import __version__
from metaq.cli import output
from metaq.config import EXTRAS, missing, require
from metaq.errors import MetaqError

FAILURE = 1
USAGE_ERROR = 2

COMMANDS = {
    "train": "Train a network to few bits and write RUN/model.metaq, its curves, metrics and settings.",
    "quantize": "Quantise on uniform buckets over the range of the weights, as in the thesis.",
    "compress": "Quantise the weights of a checkpoint or of a model folder and write them as one small file.",
    "decompress": "Restore the quantised weights, bit for bit, as what they were: checkpoint, folder or other file.",
    "diff": "Write what has changed between two models as one small file, which metaq apply adds to the first one.",
    "apply": "Write the model that updates make of their base: one file, whatever the number of updates.",
    "export": "Write a model as an ONNX network with small integers, as dense weights, folded or as it is; or as C.",
    "evaluate": "Restore a model from its file and measure its accuracy.",
    "inspect": "Show what a file holds, tensor by tensor.",
    "report": (
        "Write one self-contained HTML page about a run or a file: figures, curves, tensors, and where the bytes went."
    ),
    "demo": "The whole road on embedded digits: train, quantise, pack, restore, evaluate, report.",
    "reproduce": "Print published tables beside what is measured now.",
    "sweep": "Train a network to many sizes and show how accurate it is at each; the same command again goes on.",
}
"""Line of help of every command, the function of that name in the module of that name."""

EXAMPLES = {
    "train": "train --preset lenet5-mnist --out runs/lenet5",
    "quantize": "quantize model.pth -o model.metaq --buckets 255",
    "compress": "compress model.pth -o model.metaq --target-ratio 10",
    "decompress": "decompress model.metaq -o model.safetensors",
    "diff": "diff model.metaq tomorrow.metaq -o update.metaq",
    "apply": "apply model.metaq update.metaq -o tomorrow.metaq",
    "export": "export model.metaq --net lenet5 --fold -o model.onnx",
    "evaluate": "evaluate model.metaq --data mnist --json",
    "inspect": "inspect model.metaq --plot model.png",
    "report": "report runs/demo -o report.html",
    "demo": "demo --out runs/demo",
    "reproduce": "reproduce thesis --checkpoint lenet5.pth --data-dir data",
    "sweep": "sweep --net lenet5 --data mnist --trials 40 --out sweeps/lenet5",
}

SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 110},
}


class LazyGroup(typer.core.TyperGroup):
    """Loads a command when it is used, so that the others cost nothing."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` name, with its options. None is empty: as a path, that is the present folder."""
        for before, arg in pairwise(("", *args)):
            option, is_joined, value = arg.partition("=") if arg.startswith("--") else (before, "", arg)
            what = f"the value of {option}" if option.startswith("-") else "one of the arguments"
            is_empty = not arg or (bool(is_joined) and not value)
            require(not is_empty, f"{what} is empty: perhaps a variable that is not set; give it a value.")
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


def load(name: str) -> Any:
    """The command `name`, whose module is imported."""
    own = typer.Typer(add_completion=False, **SETTINGS)
    own.command(name, epilog=f"Example: metaq {EXAMPLES[name]}")(getattr(import_module(f"metaq.cli.{name}"), name))
    return typer.main.get_command(own)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        output.line(f"metaq {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


def run() -> None:
    """Run the command line; wrong input ends in one sentence on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app = typer.Typer(
        name="metaq",
        help="Train neural networks to a small entropy and ship them as small, bit-exact files.",
        cls=LazyGroup,
        no_args_is_help=True,
        **SETTINGS,
    )
    app.callback()(_options)
    for name, line in COMMANDS.items():
        app.command(name, help=line)(lambda: None)
    try:
        with output.telling_of_compilation():
            app(standalone_mode=True)
    except MetaqError as error:
        output.error(str(error))
        sys.exit(USAGE_ERROR)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        output.error(str(missing(module)))
        sys.exit(USAGE_ERROR)
    except OSError as error:
        output.error(f"the output cannot be written ({error.strerror or error}).")
        sys.exit(FAILURE)
