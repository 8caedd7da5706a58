"""Where the original files of MNIST and SVHN are."""

import os
import pathlib

import pytest
from made_data import FILES

# A program that test_svhn.py runs where TensorFlow is installed; collecting it would import that.
collect_ignore = ["svhn_builder_case.py"]


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder with the four original MNIST files; skips where there is none."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist"
    folder = pathlib.Path(os.environ.get("STN_JAX_MNIST_DIR") or beside)
    if not all((folder / file).exists() for file in FILES):
        pytest.skip("needs the original MNIST files: set STN_JAX_MNIST_DIR to their folder")
    return folder


@pytest.fixture(scope="session")
def svhn_dir():
    """The folder with some of SVHN in the published layout; skips where there is none."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "svhn"
    folder = pathlib.Path(os.environ.get("STN_JAX_SVHN_DIR") or beside)
    if not (folder / "number_labels.json.gz").exists():
        pytest.skip("needs real archives of SVHN: set STN_JAX_SVHN_DIR to their folder")
    return folder
