"""Data sets by name. A new one is a file with a loader and a line in :mod:`metaq.lab.registry`."""

import os
from pathlib import Path
from pkgutil import resolve_name

from metaq.config import near_match
from metaq.errors import ConfigError
from metaq.lab.data.dataset import DataSplits, LoadOptions, ProgressCallback
from metaq.lab.data.idx import load_folder
from metaq.lab.registry import DATA_SETS


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation_count: int | None = None,
    progress: ProgressCallback | None = None,
) -> DataSplits:
    """Load a data set into memory.

    The `name` is a key of :data:`metaq.lab.registry.DATA_SETS`, or the path of a folder with four IDX files named as
    MNIST's (images of any size). A folder that has the name of a data set is reached as ``./name``. If `data_dir` is
    given, a named data set is looked for nowhere else, and nothing is downloaded. `validation_count` images, from 1 and
    by default the data set's own number, are held out of the training images, always the same ones. `progress` is
    called during a download.

    Raises
    ------
    ConfigError
        If `name` is unknown, or an option does not fit the data set.
    DataError
        If files are missing, damaged or disagree, or a download fails.

    Examples
    --------
    >>> splits = load("digits")
    >>> len(splits.train), len(splits.validation), len(splits.test)
    (1197, 200, 400)
    >>> splits.train.images.shape
    torch.Size([1197, 1, 28, 28])
    """
    options = LoadOptions(
        data_dir=None if data_dir is None else Path(data_dir).expanduser(),
        validation_count=validation_count,
        progress=progress,
    )
    if name in DATA_SETS:
        splits: DataSplits = resolve_name(DATA_SETS[name])(options)
        return splits
    folder = Path(name).expanduser()
    # A path that leads nowhere is reported as a missing folder rather than as a misspelt name.
    if not name or not (folder.is_dir() or "/" in name or os.sep in name):
        raise ConfigError(f"data set: {name!r} is neither known nor a folder; {near_match(name, DATA_SETS)}")
    if options.data_dir is not None:
        raise ConfigError(
            f"data folder: {options.data_dir} was given, but the data set {name} is a folder itself; give one "
            "of the two."
        )
    return load_folder(folder, options)
