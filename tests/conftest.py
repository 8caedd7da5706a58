"""What several folders of tests use."""

import os
from pathlib import Path

# Before JAX starts: what is compiled here runs for milliseconds, so optimizing it is time lost.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import made_mnist
import numpy as np
import pytest

from stn_jax.data import sources


@pytest.fixture(scope="session", autouse=True)
def compile_each_program_once(tmp_path_factory):
    """Most of the tests' time is XLA's: what one test has compiled, the others take from here.

    So do the processes that tests start, which otherwise would fill the cache of the user.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    jax.config.update("jax_compilation_cache_dir", str(shared / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(shared / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory) -> Path:
    """A cache that holds a data set named "mnist" of 520 training and 90 test digits."""
    root = tmp_path_factory.mktemp("cache")
    made_mnist.write(root, 520, 90)
    return root


@pytest.fixture(scope="session")
def tiny_config(tiny_cache):
    """The fields of a configuration that trains in a second: eight steps of two epochs."""
    return {
        "cache_dir": str(tiny_cache),
        "dataset": "mnist",
        "width": 1 / 16,
        "epochs": 2,
        "batch_size": 128,
        "log_every": 3,
        "test_passes": 2,
        "figures": False,
    }


@pytest.fixture
def digit_file(tmp_path) -> Path:
    """A photograph of a digit, more or less: dark on light, off center, in color."""
    from PIL import Image

    image = sources.load("mnist_sample").test.images[3, ..., 0]
    paper = np.full((90, 120), 230, np.uint8)
    large = np.asarray(Image.fromarray(image).resize((56, 56)))
    paper[20:76, 50:106] -= (large * 0.8).astype(np.uint8)
    path = tmp_path / "digit.jpg"
    Image.fromarray(paper).convert("RGB").save(path)
    return path
