"""Train neural networks to a small entropy and ship them as small, bit-exact files.

The names below are the public API; each is imported when it is first used, so that parts which need no PyTorch
(``metaq.decode``) work where it is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaq.compression.compressed import Compressed as Compressed
    from metaq.compression.compressing import compress as compress
    from metaq.compression.compressing import diff as diff
    from metaq.compression.pipeline import choose_grids as choose_grids
    from metaq.errors import CodecError as CodecError
    from metaq.errors import ConfigError as ConfigError
    from metaq.errors import DataError as DataError
    from metaq.errors import FormatError as FormatError
    from metaq.errors import MetaqError as MetaqError
    from metaq.errors import OutputError as OutputError
    from metaq.errors import SolverError as SolverError
    from metaq.model.lazy import ModelFile as ModelFile
    from metaq.model.lazy import load as load
    from metaq.model.lazy import open as open
    from metaq.regularizer.config import BucketConfig as BucketConfig
    from metaq.regularizer.config import FreezeConfig as FreezeConfig
    from metaq.regularizer.config import RegularizerConfig as RegularizerConfig
    from metaq.regularizer.entropy_regularizer import EntropyRegularizer as EntropyRegularizer
    from metaq.tensors.grid import BucketGrid as BucketGrid

_HOME = {
    "BucketConfig": "metaq.regularizer.config",
    "BucketGrid": "metaq.tensors.grid",
    "CodecError": "metaq.errors",
    "Compressed": "metaq.compression.compressed",
    "ConfigError": "metaq.errors",
    "DataError": "metaq.errors",
    "EntropyRegularizer": "metaq.regularizer.entropy_regularizer",
    "FormatError": "metaq.errors",
    "FreezeConfig": "metaq.regularizer.config",
    "MetaqError": "metaq.errors",
    "ModelFile": "metaq.model.lazy",
    "OutputError": "metaq.errors",
    "RegularizerConfig": "metaq.regularizer.config",
    "SolverError": "metaq.errors",
    "choose_grids": "metaq.compression.pipeline",
    "compress": "metaq.compression.compressing",
    "diff": "metaq.compression.compressing",
    "load": "metaq.model.lazy",
    "open": "metaq.model.lazy",
}

__version__ = "0.1.0"
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "decode":
        return import_module("metaq.decode")
    if name not in _HOME:
        raise AttributeError(f"module 'metaq' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
