from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test, settings

QUICK_EXAMPLES = 20

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=QUICK_EXAMPLES)
settings.register_profile("thorough", deadline=None, derandomize=True)
settings.load_profile("quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties ask for as many examples as they need; under the profile ``quick`` they get a few of them."""
    if settings.get_current_profile_name() != "quick":
        return
    for item in items:
        test = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
        if is_hypothesis_test(test):
            asked = test._hypothesis_internal_use_settings
            few = min(asked.max_examples, QUICK_EXAMPLES)
            test._hypothesis_internal_use_settings = settings(asked, max_examples=few)


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
