"""Damaged files for the readers: ``python -m tests.fuzz [--count 10000] [--seed 0] [READER ...]``.

Each reader opens files that were sound before bytes of them were flipped, cut, moved, repeated or
replaced. It may open one all the same, or refuse it with the error that it documents; anything else
(another exception, a wrong value, half a minute without an answer) is a crash: the file is kept,
named, and the exit code is 1. A seed gives the same files again.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from PIL import Image

import stn_jax
from stn_jax import pretrained, tensor_file
from stn_jax.data import cache, embedded, sources
from stn_jax.data.photographs import read_digit, read_number
from stn_jax.data.sources import DataError
from stn_jax.experiments import results
from stn_jax.models import Normalize
from stn_jax.pretrained import PretrainedError
from stn_jax.training import Config, ConfigError
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.workdir import Workdir, WorkdirError

GRACE_STEPS = 30  # seconds for one file


class Reader(NamedTuple):
    """What opens files, and what it may say."""

    prepare: Callable[[Path], dict[Path, bytes]]  # writes a sound set of files; those to damage
    open: Callable[[Path], Any]  # opens them in their folder; AssertionError for a wrong value
    error: type[Exception]
    # Damages a file in its own way, or None: any file, anyhow.
    damage: Callable[[bytes, random.Random], bytes] | None = None


class Tally(NamedTuple):
    """What came of a reader's files."""

    opened: int
    refused: int
    crashes: list[str]  # what happened, and to which file


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content after one to four random changes, and not what it was."""
    data = bytearray(content)
    while bytes(data) == content:
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            # Where files say what they are: the first and last few hundred bytes come up more.
            size = len(data)
            edge = rng.choice([size, size, 64, 400])
            at = rng.randrange(min(edge, size) or 1)
            at = at if rng.random() < 0.5 else max(size - 1 - at, 0)
            length = min(rng.choice([1, 2, 4, 8, 50, 1000]), size - at)
            kind = rng.randrange(8)
            if kind == 0 and size:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + length] = rng.randbytes(length)
            elif kind == 2:
                del data[at:]
            elif kind == 3:
                del data[at : at + length]
            elif kind == 4:
                data[at:at] = rng.randbytes(length)
            elif kind == 5:
                data[at:at] = data[at : at + length]
            elif kind == 6:
                number = rng.choice([0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1])
                order = rng.choice(["little", "big"])
                data[at : at + 4] = number.to_bytes(4, order)[: max(size - at, 0)]
            else:
                data[at : at + length] = bytes(length)
    return bytes(data)


def mutated_inside(content: bytes, rng: random.Random) -> bytes:
    """A zip file whose checksums are right and one of whose members is damaged."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    name = rng.choice([*members, "metadata.npy", "metadata.npy"])
    if name not in members:
        name = next(iter(members))
    # An array's header, more often than its numbers; a JSON's text keeps its length.
    head, tail = members[name][:128], members[name][128:]
    if name == "metadata.npy" and rng.random() < 0.8:
        tail = _mutated_json(tail, rng)
        head = _npy_header(len(tail))
    elif rng.random() < 0.7:
        head = mutated(head, rng)
    else:
        tail = mutated(tail, rng)
    members[name] = head + tail
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for key, value in members.items():
            packed.writestr(key, value)
    return buffer.getvalue()


def _npy_header(length: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (length,)}
    )
    return buffer.getvalue()


def resigned(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose digest is right and whose metadata or numbers are damaged."""
    size = 8 + int.from_bytes(content[:8], "little")
    text = json.loads(content[8:size])["__metadata__"]["stn_jax"]
    arrays = safetensors.numpy.load(content)
    if rng.random() < 0.7:
        text = _mutated_json(text.encode(), rng).decode(errors="replace")
    else:
        name = rng.choice(list(arrays))
        numbers = bytearray(arrays[name].tobytes())
        numbers[rng.randrange(len(numbers))] ^= rng.randrange(1, 256)
        arrays[name] = np.frombuffer(numbers, arrays[name].dtype).reshape(arrays[name].shape)
    with contextlib.suppress(ValueError, AttributeError, KeyError):
        metadata = json.loads(text)
        del metadata["sha256"]
        text = json.dumps({"sha256": tensor_file.digest(arrays, metadata), **metadata})
    return safetensors.numpy.save(arrays, {"stn_jax": text})


def _mutated_text(content: bytes, rng: random.Random) -> bytes:
    """JSON damaged as text or as values."""
    while (damaged := _mutated_json(content, rng)) == content:
        pass
    return damaged


def _mutated_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with one value, somewhere in it, replaced by another; or the bytes mutated."""
    if rng.random() < 0.4:
        return mutated(text, rng)
    value = json.loads(text)
    place, key = value, rng.choice(list(value))
    while isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
        place = place[key]
        key = rng.choice(list(place))
    odd = [None, True, -1, 0, 1, 2.5, 1e308, 10**30, float("nan"), "", "x", [], [0], {}, {"a": 1}]
    place[key] = rng.choice([*odd, [10**9] * 3, [28, 28], [1, 1, 1], ["28", 28, 1]])
    return json.dumps(value).encode()


# --- the readers -----------------------------------------------------------------------------

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
    "configuration": Reader(_write_run, _open_run, ConfigError, _mutated_text),
    "lines": Reader(_write_lines, _open_lines, ConfigError),
    "network description": Reader(_write_network, _open_network, ConfigError, _mutated_text),
    "image folder": Reader(_write_folder, _open_folder, DataError),
    "arrays": Reader(_write_arrays, _open_arrays, DataError),
}


def fuzz(reader: Reader, count: int, seed: int, folder: Path, keep: Path | None = None) -> Tally:
    """Opens a number of damaged files, one after the other.

    Args:
      reader: what opens them.
      count: how many.
      seed: which; the same gives the same.
      folder: an empty one to work in.
      keep: where files are kept that something crashed at.
    """
    sound = reader.prepare(folder)
    reader_seen: collections.Counter[str] = collections.Counter()
    crashes = []
    for i in range(count):
        rng = random.Random(f"{seed}/{i}")
        path = rng.choice(list(sound))
        content = (reader.damage or mutated)(sound[path], rng)
        path.write_bytes(content)
        (folder / "damaged").write_text(path.name)
        faulthandler.dump_traceback_later(GRACE_STEPS, exit=True)
        try:
            reader.open(folder)
            reader_seen["opened"] += 1
        except reader.error as error:
            reader_seen["refused"] += 1
            if not str(error) or "\n" in str(error):
                crashes.append(f"file {i} ({path.name}): the error is not one line: {error!r}")
        except Exception as error:
            crashes.append(f"file {i} ({path.name}): {type(error).__name__}: {error}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{i}-{path.name}").write_bytes(content)
        finally:
            faulthandler.cancel_dump_traceback_later()
        path.write_bytes(sound[path])
    return Tally(reader_seen["opened"], reader_seen["refused"], crashes)


@contextlib.contextmanager
def _working_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stn_jax_fuzz_"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of: {', '.join(READERS)}")
    parser.add_argument("--count", type=int, default=10_000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_crashes"))
    flags = parser.parse_args()
    if unknown := set(flags.readers) - set(READERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(READERS)}")
    bad = 0
    for name in flags.readers or READERS:
        begun = time.monotonic()
        with _working_folder() as folder:
            tally = fuzz(READERS[name], flags.count, flags.seed, folder, flags.keep)
        bad += len(tally.crashes)
        print(
            f"{name}: {flags.count} files, {tally.refused} refused, {tally.opened} opened, "
            f"{len(tally.crashes)} crashes, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        for crash in tally.crashes[:20]:
            print(f"  {crash}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
