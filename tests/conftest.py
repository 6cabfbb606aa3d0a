from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("metaq", deadline=None, derandomize=True)
settings.load_profile("metaq")


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """Folder of the MNIST files; skips where the data are not at hand."""
    folder = os.environ.get("METAQ_DATA")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("MNIST is not at hand: set METAQ_DATA to the folder that holds mnist/")
    return Path(folder)


@pytest.fixture(scope="session")
def reference_checkpoint() -> Path:
    """The original work's LeNet-5; skips where it is not at hand."""
    folder = os.environ.get("METAQ_REFERENCE")
    if not folder:
        pytest.skip("the reference checkpoint is not at hand: set METAQ_REFERENCE to its folder")
    return Path(folder) / "lenet5_metaq_r1114_1.pth"
