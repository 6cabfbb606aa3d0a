"""A model file of a package: the library that it belongs to, and a measure of what is restored of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from support import files_libraries
from support.case import Case, Sources, State, outputs
from support.files_libraries import Structure
from support.qualities import Quality
from support.sentences import CannotRunError

TORCH = {"library": "torch.load, weights only", "structure": files_libraries.of_torch}
ONNX = {"kind": "ONNX", "library": "onnx.checker, onnxruntime", "structure": files_libraries.of_onnx}
TFLITE = {"kind": "TFLite", "library": "LiteRT", "structure": files_libraries.of_tflite}


@dataclass(frozen=True, kw_only=True, eq=False)
class FileCase:
    """A model file or folder.

    `structure` tells what its own `library` finds in it, `outputs` what the model of a file computes, and `quality` how
    well two such outputs agree; without these, the file is kept bit for bit. `back` is the name that a restored one
    gets; `options` are those of ``metaq compress``. What is `made` from weights of a package says how.
    """

    name: str
    kind: str
    package: str
    source: Path
    back: str
    library: str
    structure: Callable[[Path], Structure]
    outputs: Callable[[Path], torch.Tensor] | None = None
    quality: Callable[[torch.Tensor, torch.Tensor], Quality] | None = None
    options: tuple[str, ...] = ()
    made: str | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether all else in a checkpoint comes back, too."""
        return "--keep-all" in self.options

    @property
    def is_lossless(self) -> bool:
        """Whether it is kept bit for bit."""
        return "--lossless" in self.options


def of_case(case: Case, read: Callable[[Path], State]) -> dict[str, Any]:
    """How the weights that `read` finds in a file are judged by a model of the bank."""

    def computed(path: Path) -> torch.Tensor:
        case.model.load_state_dict(read(path))
        return outputs(case.model, case.held_out)

    return {"outputs": computed, "quality": case.quality}


def pictures_of(sources: Sources) -> Path:
    """The file of photographs."""
    if sources.pictures is None:
        raise CannotRunError("this model needs --pictures cifar10_jpeg.npz; see --help.")
    return sources.pictures
