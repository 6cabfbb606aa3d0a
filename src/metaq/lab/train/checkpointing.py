"""The resumable checkpoint of a run: one file, replaced atomically after every epoch."""

from pathlib import Path
from typing import Any

import torch

from metaq.errors import FormatError
from metaq.files import write_atomically
from metaq.lab.train.config import TrainConfig

FILE_NAME = "checkpoint.pt"


def save(folder: Path, config: TrainConfig, state: dict[str, Any]) -> None:
    """Write configuration and trainer state into `folder`."""
    saved = {"config": config.to_json(), "state": state}
    write_atomically(folder / FILE_NAME, lambda stream: torch.save(saved, stream))


def load(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Configuration and state of the run in `folder`; raises :class:`FormatError` if there is none or it is damaged."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise FormatError(f"{path}: no such file; there is no run to resume in this folder.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return TrainConfig.from_json(saved["config"]), saved["state"]
    except Exception as error:
        raise FormatError(f"{path}: is damaged ({type(error).__name__}); start the run again.") from error
