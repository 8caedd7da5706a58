"""The cache of decoded arrays: what is written can be read, what is damaged is refused."""

import errno
import json
import os
import random
import shutil
import tracemalloc

import numpy as np
import pytest
from made_data import digits

from stn_jax.data import cache, sources
from stn_jax.data.image_sets import DataError


def write(home, train, test, name="toy", version="1.2.0", classes=10, batch=7, test_count=None):
    """Writes splits, given as (images, labels), in small batches."""

    def batches(images, labels):
        for start in range(0, len(labels), batch):
            yield images[start : start + batch], labels[start : start + batch]

    splits = {
        "train": (len(train[1]), batches(*train)),
        "test": (len(test[1]) if test_count is None else test_count, batches(*test)),
    }
    return cache.write(home, name, version, classes, splits, origin="the tests")


@pytest.fixture
def folder(tmp_path):
    """A sound cache folder with 30 training and 9 test images."""
    return write(tmp_path / "toy", digits(30), digits(9, seed=1))


@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 1, 10), (5, 3, 300)])
def test_what_is_written_is_read(tmp_path, size, channels, classes):
    train, test = (digits(n, size, channels, classes, seed=n) for n in (30, 9))
    written = write(tmp_path / "toy", train, test, classes=classes)
    source = cache.read(written, "toy")
    assert written == tmp_path / "toy" / "1.2.0"
    assert (source.name, source.version, source.num_classes) == ("toy", "1.2.0", classes)
    for split, (images, labels) in ((source.train, train), (source.test, test)):
        np.testing.assert_array_equal(split.images, images, strict=True)
        np.testing.assert_array_equal(split.labels, labels.astype(np.int32), strict=True)
        assert isinstance(split.images, np.memmap)
        assert not split.images.flags.writeable
        assert not split.labels.flags.writeable
    # Anyone can read the arrays without us.
    np.testing.assert_array_equal(np.load(written / "train_images.npy"), train[0], strict=True)
    assert np.load(written / "test_labels.npy").dtype == np.int32
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(
        ["toy", "1.2.0", "meta.json", *(f"{s}.npy" for s in json_of(written)["arrays"])]
    )


def json_of(folder):
    return json.loads((folder / "meta.json").read_text())


def test_no_more_memory_than_a_few_batches(tmp_path):
    images = np.zeros((500, 32, 32, 3), np.uint8)

    def batches():
        for i in range(40):
            images[:] = i
            yield images, np.full(500, i)

    splits = {"train": (20_000, batches()), "test": (20_000, batches())}
    tracemalloc.start()
    folder = cache.write(tmp_path, "big", "1.0.0", 40, splits)
    written = tracemalloc.get_traced_memory()[1]
    source = cache.read(folder, "big")
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.train.images.nbytes > 60_000_000
    assert max(written, read) < 3_000_000
    assert source.train.images[19_999].min() == 39


# --- what cannot be written ------------------------------------------------------------------


TWENTIETH = np.arange(30) == 20


@pytest.mark.parametrize(
    ("change", "count", "message"),
    [
        (lambda x, y: (x[:29], y[:29]), 30, "found 29 examples; expected 30"),
        (lambda x, y: (x, y), 29, "found 30 examples; expected 29"),
        (lambda x, y: (x[:0], y[:0]), 0, "found 0 examples; expected 1 or more"),
        (lambda x, y: (x, np.where(TWENTIETH, 10, y)), 30, "found label 10"),
        (lambda x, y: (x, np.where(TWENTIETH, -1, y)), 30, "found label -1"),
        (lambda x, y: (x[:, :, :5], y), 30, r"found uint8 images of \[8, 5, 1\]"),
        (lambda x, y: (x / 255, y), 30, "found float64 images"),
    ],
)
def test_a_bad_split_is_rejected_and_leaves_nothing(tmp_path, change, count, message):
    bad = change(*digits(30))
    with pytest.raises(DataError, match=message):
        write(tmp_path / "toy", digits(30), bad, test_count=count)
    assert not list((tmp_path / "toy").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_between_leaves_nothing(tmp_path, error):
    def batches():
        yield digits(3)
        raise error

    with pytest.raises(error):
        cache.write(tmp_path, "toy", "1.2.0", 10, {"train": (6, batches()), "test": (6, [])})
    assert not list(tmp_path.iterdir())


def test_an_exception_right_after_making_the_folder_leaves_nothing(tmp_path, monkeypatch):
    make, home = os.mkdir, tmp_path / "toy"

    def then_interrupt(path, *arguments, **keywords):
        make(path, *arguments, **keywords)
        if os.path.dirname(path) == str(home):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(home, digits(30), digits(9))
    assert not list(home.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*choose another cache_dir"):
        write(tmp_path / "toy", digits(30), digits(9))
    assert not list((tmp_path / "toy").iterdir())


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "toy").write_text("in the way")
    with pytest.raises(DataError, match="cannot write toy to the cache"):
        write(tmp_path / "toy", digits(30), digits(9))


def test_a_second_process_does_not_disturb_the_first(folder):
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    again = write(folder.parent, digits(30, seed=5), digits(9, seed=6))
    assert again == folder
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


# --- what cannot be read ---------------------------------------------------------------------


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def remeta(folder, change):
    """Applies a change to the parsed meta.json."""
    meta = json_of(folder)
    change(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


FILE_DAMAGES = {
    "cut": lambda f: rewrite(f / "train_images.npy", lambda b: b[:-1]),
    "empty": lambda f: rewrite(f / "test_images.npy", lambda b: b""),
    "longer": lambda f: rewrite(f / "test_labels.npy", lambda b: b + b"\0"),
    "magic": lambda f: rewrite(f / "train_images.npy", lambda b: b"\0" + b[1:]),
    "type": lambda f: rewrite(f / "train_labels.npy", lambda b: b.replace(b"<i4", b"<f4")),
    "order": lambda f: rewrite(f / "train_images.npy", lambda b: b.replace(b"False", b"True ")),
    "missing": lambda f: (f / "train_labels.npy").unlink(),
    "folder": lambda f: [(f / "test_images.npy").unlink(), (f / "test_images.npy").mkdir()],
    "labels": lambda f: rewrite(f / "train_labels.npy", lambda b: b[:-4] + b"\x0a\0\0\0"),
    "negative": lambda f: rewrite(f / "test_labels.npy", lambda b: b[:-4] + b"\xff" * 4),
    "swapped": lambda f: (f / "train_images.npy").replace(f / "test_images.npy"),
}

META_DAMAGES = {
    "missing": lambda f: (f / "meta.json").unlink(),
    "empty": lambda f: (f / "meta.json").write_bytes(b""),
    "cut": lambda f: rewrite(f / "meta.json", lambda b: b[:100]),
    "binary": lambda f: (f / "meta.json").write_bytes(bytes(range(256))),
    "deep": lambda f: (f / "meta.json").write_bytes(b"[" * 100_000),
    "digits": lambda f: (f / "meta.json").write_bytes(b'{"format": ' + b"1" * 5_000 + b"}"),
    "list": lambda f: (f / "meta.json").write_text("[1]"),
    "something else": lambda f: (f / "meta.json").write_text('{"name": "toy"}'),
    "other name": lambda f: remeta(f, lambda m: m.update(name="mnist")),
    "other version": lambda f: remeta(f, lambda m: m.update(version="1.2.1")),
    "no classes": lambda f: remeta(f, lambda m: m.pop("num_classes")),
    "true classes": lambda f: remeta(f, lambda m: m.update(num_classes=True)),
    "zero classes": lambda f: remeta(f, lambda m: m.update(num_classes=0)),
    "arrays": lambda f: remeta(f, lambda m: m.update(arrays=[])),
    "an array": lambda f: remeta(f, lambda m: m["arrays"].update(test_labels=3)),
    "shape": lambda f: remeta(f, lambda m: m["arrays"]["test_images"].update(shape=[9, 64])),
    "huge": lambda f: remeta(f, lambda m: m["arrays"]["test_images"].update(shape=[10**30])),
    "negative": lambda f: remeta(f, lambda m: m["arrays"]["test_images"].update(shape=[-9, 64])),
    "axes": lambda f: remeta(f, lambda m: m["arrays"]["test_images"].update(shape=[1] * 90)),
    "type": lambda f: remeta(f, lambda m: m["arrays"]["test_images"].update(dtype="int8")),
    "other shape": lambda f: [
        remeta(f, lambda m, s=s, n=n: m["arrays"][f"{s}_images"].update(shape=[n, 4, 16, 1]))
        for s, n in (("train", 30), ("test", 9))
    ],
    "counts": lambda f: remeta(
        f, lambda m: m["arrays"].update(test_labels=m["arrays"]["train_labels"])
    ),
}


@pytest.mark.parametrize(
    "damage",
    [pytest.param(d, id=f"file {n}") for n, d in FILE_DAMAGES.items()]
    + [pytest.param(d, id=f"meta {n}") for n, d in META_DAMAGES.items()],
)
def test_a_damaged_cache_is_rejected(folder, damage):
    damage(folder)
    with pytest.raises(DataError) as caught:
        cache.read(folder, "toy")
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert f"delete the folder {folder}" in message


def test_images_of_two_sizes_are_rejected(tmp_path):
    large = write(tmp_path / "a", digits(30, size=9), digits(9, size=9))
    small = write(tmp_path / "b", digits(30), digits(9))
    shutil.copy(large / "test_images.npy", small / "test_images.npy")
    entry = json_of(large)["arrays"]["test_images"]
    remeta(small, lambda m: m["arrays"].update(test_images=entry))
    with pytest.raises(DataError, match="the shapes do not match"):
        cache.read(small, "toy")


def test_another_format_is_rejected(folder):
    remeta(folder, lambda m: m.update(format=2))
    with pytest.raises(DataError, match=rf"format 2, but .* format 1: delete the folder {folder}"):
        cache.read(folder, "toy")


def test_a_changed_meta_file_is_read_or_rejected_but_never_crashes(folder):
    # Any byte may change to any other; images may not be read as anything but what they are.
    sound = (folder / "meta.json").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(sound)
        for _ in range(rng.choice([1, 1, 2, 20])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (folder / "meta.json").write_bytes(content)
        try:
            source = cache.read(folder, "toy")
        except DataError:
            refused += 1
        else:
            assert source.train.images.shape == (30, 8, 8, 1)
    assert refused > 200


# --- through load ----------------------------------------------------------------------------


def test_load_finds_the_newest_version(tmp_path):
    for version, seed in (("1.9.0", 1), ("1.10.0", 2), ("1.2.3", 3)):
        write(tmp_path / "toy", digits(30, seed=seed), digits(9), version=version)
    (tmp_path / "toy" / "2.0.0-other").mkdir()
    source = sources.load("toy", cache_dir=tmp_path)
    assert source.version == "1.10.0"
    np.testing.assert_array_equal(source.train.images, digits(30, seed=2)[0])


def test_load_finds_configurations(tmp_path):
    write(tmp_path / "toy", digits(30), digits(9), version="3.0.0")
    write(tmp_path / "toy" / "tiny-2", digits(4), digits(3), name="toy/tiny-2")
    assert len(sources.load("toy", cache_dir=tmp_path).train.labels) == 30
    assert len(sources.load("toy/tiny-2", cache_dir=tmp_path).train.labels) == 4


@pytest.mark.parametrize("kind", ["argument", "tilde", "STN_JAX_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_where_the_cache_is(tmp_path, monkeypatch, kind):
    for variable in ("STN_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    root, cache_dir = tmp_path / ".cache" / "stn_jax", None
    if kind == "argument":
        root = cache_dir = tmp_path / "here"
    elif kind == "tilde":
        root, cache_dir = tmp_path / "here", "~/here"
    elif kind == "STN_JAX_CACHE":
        root = tmp_path / "mine"
        monkeypatch.setenv("STN_JAX_CACHE", str(root))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    elif kind == "XDG_CACHE_HOME":
        root = tmp_path / "xdg" / "stn_jax"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write(root / "toy", digits(30), digits(9))
    assert len(sources.load("toy", cache_dir=cache_dir).train.labels) == 30


def test_load_from_the_cache_maps_files_and_needs_no_folder_of_tfds(tmp_path):
    write(tmp_path / "toy", digits(30), digits(9))
    source = sources.load("toy", cache_dir=tmp_path, data_dir="", manual_dir="")
    assert isinstance(source.train.images, np.memmap)
    assert isinstance(source.test.images, np.memmap)
