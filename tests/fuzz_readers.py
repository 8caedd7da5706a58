"""The readers that ``tests/fuzz.py`` tests: how each writes valid files and opens damaged ones."""

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import stn_jax
from stn_jax import pretrained
from stn_jax.data import cache, embedded, sources
from stn_jax.data.photographs import read_digit, read_number
from stn_jax.data.sources import DataError
from stn_jax.experiments import results
from stn_jax.models import Normalize
from stn_jax.pretrained import PretrainedError
from stn_jax.training import Config, ConfigError
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.workdir import Workdir, WorkdirError
from tests.damage import mutated_inside, mutated_text, resigned


class Reader(NamedTuple):
    """What opens files, and what it may say."""

    prepare: Callable[[Path], dict[Path, bytes]]  # writes a sound set of files; those to damage
    open: Callable[[Path], Any]  # opens them in their folder; AssertionError for a wrong value
    error: type[Exception]
    # Damages a file in its own way, or None: any file, anyhow.
    damage: Callable[[bytes, random.Random], bytes] | None = None


_NAME = "rotated_mnist/stn-sl1"


def _write_weights(folder: Path) -> dict[Path, bytes]:
    options = {"width": 1 / 64, "classes": 10}
    module = stn_jax.create_model(*_NAME.split("/"), **options)
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    metadata = {"model": options, "input_shape": [28, 28, 1], "test_error_percent": 1.0}
    path = pretrained.save(_NAME, params, metadata, folder=folder)
    return {path: path.read_bytes()}


def _copy_npz_weights(folder: Path) -> dict[Path, bytes]:
    """What an earlier version wrote, of the same numbers."""
    (source,) = (Path(__file__).parent / "data" / "npz_weights").iterdir()
    path = folder / source.name
    path.write_bytes(source.read_bytes())
    return {path: path.read_bytes()}


def _open_weights(folder: Path) -> dict[str, np.ndarray]:
    module, variables, _ = stn_jax.load_pretrained(_NAME, folder=folder)
    assert module.head.classes == 10
    flat = jax.tree.leaves(variables)
    assert all(np.isfinite(leaf).all() for leaf in flat)
    return flat


def _open_same_weights(folder: Path) -> None:
    """For damage from outside, which the checksums must tell."""
    found = _open_weights(folder)
    rng = np.random.default_rng(0)
    for leaf in found:
        expected = rng.normal(0, 0.1, leaf.shape).astype(np.float32).astype(np.float16)
        np.testing.assert_array_equal(leaf, expected.astype(np.float32))


def _write_cache(folder: Path) -> dict[Path, bytes]:
    rng = np.random.default_rng(0)
    splits = {
        split: (n, [(rng.integers(0, 256, (n, 8, 8, 1), np.uint8), np.arange(n) % 10)])
        for split, n in (("train", 30), ("test", 12))
    }
    home = cache.write(folder / "toy", "toy", "1.2.0", 10, splits, origin="the fuzzer")
    return {path: path.read_bytes() for path in sorted(home.iterdir())}


def _open_cache(folder: Path) -> None:
    source = cache.read(folder / "toy" / "1.2.0", "toy")
    for split, count in ((source.train, 30), (source.test, 12)):
        assert split.images.shape == (count, 8, 8, 1)
        assert split.images.sum() > 0  # all of it can be read
        assert split.labels.shape == (count,)
        assert 0 <= split.labels.min() <= split.labels.max() < source.num_classes


def _write_sample(folder: Path) -> dict[Path, bytes]:
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (20, 28, 28, 1), np.uint8),
        "train_labels": np.arange(20, dtype=np.uint8) % 10,
        "test_images": rng.integers(0, 256, (10, 28, 28, 1), np.uint8),
        "test_labels": np.arange(10, dtype=np.uint8),
    }
    path = folder / "sample.npz"
    np.savez_compressed(path, **arrays)
    return {path: path.read_bytes()}


def _open_sample(folder: Path) -> None:
    with mock.patch.object(embedded, "PATH", folder / "sample.npz"):
        source = sources.load("mnist_sample")
    rng = np.random.default_rng(0)
    for split, count in ((source.train, 20), (source.test, 10)):
        expected = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
        np.testing.assert_array_equal(split.images, expected)
        np.testing.assert_array_equal(split.labels, np.arange(count) % 10)


_FORMATS = ("png", "jpg", "gif", "tif", "bmp", "webp", "ppm")


def _write_images(folder: Path) -> dict[Path, bytes]:
    shade = np.full((48, 40), 230, np.uint8)
    shade[8:40, 18:24] = 20
    shade[12:18, 10:24] = 40
    image = Image.fromarray(shade).convert("RGB")
    files = {}
    for suffix in _FORMATS:
        path = folder / f"digit.{suffix}"
        image.save(path)
        files[path] = path.read_bytes()
    path = folder / "digit16.png"
    Image.fromarray(shade.astype(np.uint16) * 257).save(path)
    return {**files, path: path.read_bytes()}


def _open_images(folder: Path) -> None:
    path = folder / (folder / "damaged").read_text()
    digit = read_digit(path).image
    assert (digit.shape, digit.dtype) == ((28, 28, 1), np.uint8)
    assert digit.max() > 0
    number = read_number(path).image
    assert (number.shape, number.dtype) == ((64, 64, 3), np.uint8)


def _write_run(folder: Path) -> dict[Path, bytes]:
    path = folder / "config.json"
    path.write_text(json.dumps(Config(seeds=(3, 4)).to_dict()))
    return {path: path.read_bytes()}


def _open_run(folder: Path) -> None:
    config = Config.load(folder)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def _write_lines(folder: Path) -> dict[Path, bytes]:
    metrics, table = folder / "metrics.jsonl", folder / "results" / "table1.jsonl"
    lines = [{"step": i, "epoch": i / 2, "loss": [0.5, 0.25], "seconds": 1.0} for i in (2, 4, 6)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table.parent.mkdir()
    line = {
        "row": "rotation/cnn",
        "test_error_percent": 1.5,
        "device": "a CPU",
        "devices": 1,
        "versions": {},
    }
    for seed in (0, 1):
        config = Config(seeds=(seed,)).to_dict()
        results.append(table, [{**line, "seed": seed, "config": config}])
    return {path: path.read_bytes() for path in (metrics, table)}


def _open_lines(folder: Path) -> None:
    """Lines that are not whole are left out, and nothing is refused."""
    assert all(isinstance(line, dict) for line in Workdir(folder).metrics())
    for result in results.read(folder / "results", quiet=True):
        assert isinstance(result.config, Config)
        assert isinstance(f"{result}", str)


def _checkpointed() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 5)).astype(np.float32)
    return {"step": np.int32(7), "params": {"kernel": kernel, "bias": np.zeros(5, np.float32)}}


def _write_checkpoint(folder: Path) -> dict[Path, bytes]:
    Checkpoints(folder).save(_checkpointed(), {"loss": [0.5]})
    path = folder / "7.safetensors"
    return {path: path.read_bytes()}


def _open_checkpoint(folder: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        saved = Checkpoints(folder).restore(_checkpointed())
    if saved is None:
        raise WorkdirError(said.getvalue().removesuffix("\n"))
    assert saved.log == {"loss": [0.5]}
    jax.tree.map(np.testing.assert_array_equal, saved.state, _checkpointed())


def _write_network(folder: Path) -> dict[Path, bytes]:
    known = {
        "model": {"classes": 3, "width": 0.5, "dtype": None},
        "image_shape": [12, 16, 3],
        "input_shape": [12, 16, 3],
        "mean": [0.5, 0.25, 0.125],
        "deviation": [0.25, 0.25, 0.25],
        "class_names": ["a", "b", "c"],
    }
    Workdir(folder).write_network(known)
    path = folder / "network.json"
    return {path: path.read_bytes()}


def _open_network(folder: Path) -> None:
    known = Workdir(folder).network()
    assert known is not None
    normalize = Normalize.of(known, known["input_shape"])
    assert np.isfinite(normalize.mean).all()
    assert min(normalize.shape) > 0


def _write_folder(folder: Path) -> dict[Path, bytes]:
    files = {}
    for name in ("cat", "dog"):
        (folder / "own" / name).mkdir(parents=True)
        for path in list(_write_images(folder / "own" / name))[:3]:
            files[path] = path.read_bytes()
    return files


def _open_folder(folder: Path) -> None:
    shutil.rmtree(folder / "cache", ignore_errors=True)
    with contextlib.redirect_stderr(io.StringIO()):
        found = sources.load(f"folder:{folder / 'own'}", cache_dir=folder / "cache")
    assert found.class_names == ("cat", "dog")
    assert len(found.train.images) + len(found.test.images) == 2 * (len(_FORMATS) + 1)


def _write_arrays(folder: Path) -> dict[Path, bytes]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 6, 8, 3), np.uint8)
    path = folder / "own.npz"
    np.savez(path, images=images, labels=np.array(["a", "b"] * 10))
    return {path: path.read_bytes()}


def _open_arrays(folder: Path) -> None:
    found = sources.load(f"npz:{folder / 'own.npz'}")
    assert found.train.images.ndim == 4
    assert found.train.labels.max() < found.num_classes == len(found.class_names or ())


READERS = {
    "weights": Reader(_write_weights, _open_same_weights, PretrainedError),
    "weights, signed again": Reader(_write_weights, _open_weights, PretrainedError, resigned),
    "npz weights": Reader(_copy_npz_weights, _open_same_weights, PretrainedError),
    "npz weights, packed again": Reader(
        _copy_npz_weights, _open_weights, PretrainedError, mutated_inside
    ),
    "checkpoint": Reader(_write_checkpoint, _open_checkpoint, WorkdirError),
    "cache": Reader(_write_cache, _open_cache, DataError),
    "sample": Reader(_write_sample, _open_sample, DataError),
    "images": Reader(_write_images, _open_images, DataError),
    "configuration": Reader(_write_run, _open_run, ConfigError, mutated_text),
    "lines": Reader(_write_lines, _open_lines, ConfigError),
    "network description": Reader(_write_network, _open_network, ConfigError, mutated_text),
    "image folder": Reader(_write_folder, _open_folder, DataError),
    "arrays": Reader(_write_arrays, _open_arrays, DataError),
}
