"""Where the original files of MNIST and SVHN are, and tests without a network."""

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


@pytest.fixture(scope="session")
def svhn_dir():
    """The folder with some of SVHN in the published layout; skips where there is none."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "svhn"
    folder = pathlib.Path(os.environ.get("STN_JAX_SVHN_DIR") or beside)
    if not (folder / "number_labels.json.gz").exists():
        pytest.skip("needs real archives of SVHN: set STN_JAX_SVHN_DIR to their folder")
    return folder


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Sends every download to a port where nobody listens, and keeps out of the home folder."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("STN_JAX_CACHE", str(tmp_path / "default_cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default_data"))
