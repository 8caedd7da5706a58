"""Where the original MNIST files are."""

import os
import pathlib

import pytest
from made_data import FILES


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder with the four original MNIST files; skips where there is none."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist"
    folder = pathlib.Path(os.environ.get("STN_JAX_MNIST_DIR") or beside)
    if not all((folder / file).exists() for file in FILES):
        pytest.skip("needs the original MNIST files: set STN_JAX_MNIST_DIR to their folder")
    return folder
