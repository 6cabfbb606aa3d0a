"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaq.cli import output
from metaq.config import require
from metaq.lab.registry import NETWORKS

if TYPE_CHECKING:
    from metaq.lab.data import DataSplits, ImageDataset

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
Net = Annotated[str, typer.Option("--net", help=f"Network: {', '.join(NETWORKS)}, or package.module:factory.")]
OwnNet = Annotated[
    str | None,
    typer.Option("--net", help=f"Network: {', '.join(NETWORKS)}, or package.module:factory; else what the file names."),
]
NewNet = Annotated[str | None, typer.Option("--net", help="Another network than the preset's.")]
NewData = Annotated[str | None, typer.Option("--data", help="Another data set than the preset's.")]
Teacher = Annotated[
    Path | None, typer.Option("--teacher", help="Weights of a network whose probabilities are learned too.")
]
TeacherNet = Annotated[str | None, typer.Option("--teacher-net", help="Its network, if another.")]
TargetBytes = Annotated[int | None, typer.Option("--target-bytes", help="Largest size of the file.")]
TargetRatio = Annotated[
    float | None, typer.Option("--target-ratio", help="Least ratio of the tensors' bytes to the file's.")
]
TargetBitsPerWeight = Annotated[
    float | None, typer.Option("--target-bits-per-weight", help="Most bits of the file per weight.")
]
Model = Annotated[Path, typer.Argument(help="Model: .metaq, .safetensors, .pth or .pt.")]
Coder = Annotated[str, typer.Option("--coder", help="small; or fast, which decodes many times faster.")]
Data = Annotated[str, typer.Option("--data", help="Data set: digits, mnist, cifar10, or a folder of four IDX files.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder that holds the data set; else $METAQ_DATA, else the cache folder."),
]
Split = Annotated[str, typer.Option("--split", help="Images to evaluate on: test, validation or train.")]
Center = Annotated[float | None, typer.Option("--center", help="Middle of the range; default: that of the weights.")]
Radius = Annotated[float | None, typer.Option("--radius", help="Half-width of the range; default: all weights fit.")]
Include = Annotated[list[str] | None, typer.Option("--include", help="Quantise only tensors matching this glob.")]
Key = Annotated[
    str | None,
    typer.Option("--key", help="Where in a checkpoint the weights are, such as model.state_dict; . is the top."),
]
Keep = Annotated[
    float | None,
    typer.Option("--keep", help="How much of the outputs to keep, such as 0.999; needs --calibrate."),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        help="Calibrate on inputs without labels: a file of texts, one a line; .npy; or a folder of pictures.",
    ),
]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", help="Store tensors matching this glob exactly.")]


def load_data(name: str, data_dir: Path | None, *, validation_count: int | None = None) -> DataSplits:
    """Load a data set, with a bar on stderr where it must be downloaded."""
    with output.stage_progress() as progress:
        progress.stage("reading images", None)
        from metaq.lab import data

        bar = output.DownloadProgress(progress)
        return data.load(name, data_dir=data_dir, validation_count=validation_count, progress=bar)


def pick_split(splits: DataSplits, split: str) -> ImageDataset:
    """The images called `split`."""
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    require(split in parts, f"--split {split}: choose test, validation or train.")
    return parts[split]
