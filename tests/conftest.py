"""What several folders of tests use, and what of them the quick run takes."""

import gc
import hashlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

# Before JAX starts: what is compiled here runs for milliseconds, so optimizing it is time lost.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know the flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import hypothesis
import jax
import jaxlib
import made_mnist
import numpy as np
import pytest
from quick_run import mark_others_slow

from stn_jax.data import sources
from stn_jax.files import user_cache

# The same examples in every session, whose compiled programs are kept.
hypothesis.settings.register_profile("quick", max_examples=24, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=300, deadline=None)


# --- the quick run -------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis tries few examples where slow tests are left out, and many where they are not."""
    quick = config.getoption("markexpr") == "not slow"
    hypothesis.settings.load_profile("quick" if quick else "thorough")
    if not hasattr(config, "workerinput"):
        empty_if_too_large(compiled_programs().parent)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_others_slow(items)


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from walking, each time, through all that has been imported."""
    # At its first example Hypothesis looks for references to NumPy's generator, and among frozen
    # objects it finds none.
    hypothesis.given(hypothesis.strategies.none())(lambda _: None)()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


# --- compiled programs ---------------------------------------------------------------------------

CACHE_LIMIT = 2 * 2**30  # bytes, of all versions together


def compiled_programs() -> Path:
    """The folder where XLA's programs are kept between sessions.

    In the user's cache, or where ``STN_JAX_TESTS_CACHE`` says. There is one for each pair of
    versions, for flags, and for a processor, whose instructions the programs hold.
    """
    root = Path(os.environ.get("STN_JAX_TESTS_CACHE") or user_cache() / "tests")
    features = Path("/proc/cpuinfo")
    lines = features.read_text().splitlines() if features.exists() else [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    made_for = " ".join([os.environ["XLA_FLAGS"], platform.machine(), *processor])
    digest = hashlib.sha256(made_for.encode()).hexdigest()[:8]
    return root / f"{jax.__version__}-{jaxlib.__version__}-{digest}"


def empty_if_too_large(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if sum(path.stat().st_size for path in files) > CACHE_LIMIT:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """The programs of one file are of no use to the next, and gigabytes of them make all slower."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def compile_each_program_once():
    """Most of the tests' time is XLA's: what has once been compiled is taken from a folder.

    So it is in the processes that tests start, which otherwise would fill the cache of the user.
    """
    folder = compiled_programs()
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


# --- data ----------------------------------------------------------------------------------------


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
        "learning_rate": 0.2,
        "log_every": 3,
        "test_passes": 2,
        "figures": False,
    }


@pytest.fixture(scope="session")
def trained_run(tiny_config, tmp_path_factory) -> Path:
    """A finished run of two seeds, for all that read one: what would change it takes a copy."""
    from stn_jax.training import Config, train

    path = tmp_path_factory.mktemp("trained") / "run"
    fields = {"epochs": 1, "log_every": 2, "seeds": (3, 5)}
    train(Config(**tiny_config | fields), path)
    return path


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
