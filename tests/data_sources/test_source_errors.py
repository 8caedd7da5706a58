"""Data sets that cannot be loaded, and how it is said.

No test uses the network, and TensorFlow is never imported into the test process.
"""

import gzip
import importlib.util
import os
import time
import types

import numpy as np
import pytest
from made_data import FILES, digits, write_tfds
from needs import customize, needs_array_record, needs_tensorflow

from stn_jax.data import prepare, sources, tfds_builders
from stn_jax.data.sources import DataError

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../mnist",
        "mnist/..",
        "/mnist",
        "mnist/a/b",
        "MNIST",
        "mnist:3.0.1",
        "a b",
        "mnist\n",
        None,
        7,
    ],
)
def test_impossible_names(name):
    with pytest.raises(DataError, match="cannot be the name of a data set"):
        sources.load(name)


@pytest.mark.parametrize("name", ["mnist", "mnist_sample", "toy"])
def test_given_folders_must_exist(tmp_path, name):
    from test_data_cache import write

    write(tmp_path / "toy", digits(30), digits(9))  # even what is cached does not load
    (tmp_path / "file").touch()
    for folder, found in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "file", "is not a"),
    ):
        for what in ("data_dir", "manual_dir"):
            with pytest.raises(DataError, match=f"{what} {folder} {found}"):
                sources.load(name, cache_dir=tmp_path, **{what: folder})
    with pytest.raises(DataError, match=r"data_dir .* is not a folder"):
        sources.load(name, manual_dir=tmp_path, data_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "does not know the data set mnits; did you mean mnist or"),
        ("zzzzqqqq", "does not know the data set zzzzqqqq, nor any similar name"),
        ("emnist/lettres", "emnist has no configuration lettres; it has .*letters"),
        ("mnist/letters", "mnist has no configuration letters; it has none"),
        pytest.param(
            "higgs",
            "higgs is not a data set for image classification: .* found class_label: Tensor",
            marks=needs_tensorflow,  # TFDS finds this builder with the data extra alone
        ),
        ("imagenet2012", "imagenet2012 has images of different sizes"),
    ],
)
def test_data_sets_that_will_not_do(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        prepare.prepare(name, data_dir=tmp_path, manual_dir=None, cache_dir=tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_image_and_label_are_found_among_the_features():
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image(shape=(8, 8, 1)), tfds.features.ClassLabel(num_classes=3)
    text = tfds.features.Text()

    def keys(supervised, **features):
        features = tfds.features.FeaturesDict(features)
        info = types.SimpleNamespace(features=features, supervised_keys=supervised)
        return tfds_builders.example_names("toy", info)

    assert keys(("image", "fine"), image=image, coarse=label, fine=label) == ("image", "fine")
    assert keys(None, id=text, picture=image, kind=label) == ("picture", "kind")
    assert keys(("picture", "id"), id=text, picture=image, kind=label) == ("picture", "kind")
    for supervised, features in [
        (None, {"image": image, "coarse": label, "fine": label}),
        (None, {"left": image, "right": image, "label": label}),
        (("image", "mask"), {"image": image, "mask": image}),
        (("image", "id"), {"image": image, "id": text}),
    ]:
        with pytest.raises(DataError, match="toy is not a data set for image classification"):
            keys(supervised, **features)


WIDE = np.zeros((30, 8, 6, 1), np.uint8)
MIXED = [np.zeros((8, 8, 1), np.uint8)] * 20 + [np.zeros((9, 9, 1), np.uint8)] * 10
ZEROS = np.zeros(30, int)


@needs_array_record
@pytest.mark.parametrize(
    ("splits", "feature", "message"),
    [
        ({"test": digits(30)}, {}, r"train and test: Unknown split 'train'.*\['test'\]"),
        (
            {"train": digits(30), "test": digits(0)},
            {},
            "toy needs examples in the splits train and test",
        ),
        (
            {"train": digits(30), "test": (WIDE, ZEROS)},
            {"shape": (8, 6, 1)},
            r"test split: found uint8 images of \[8, 6, 1\]; expected uint8 images of \[8, 8, 1\]",
        ),
        (
            {"train": digits(30), "test": (WIDE, ZEROS)},
            {"shape": (None, None, 1)},
            r"test split: found uint8 images of \[8, 6, 1\]; expected uint8 images of \[8, 8, 1\]",
        ),
        (
            {},
            {"dtype": np.uint16, "encoding_format": "png"},
            r"toy has uint16 images .* supported are uint8 images with 1 to 4 channels",
        ),
        (
            {"train": digits(30), "test": (MIXED, ZEROS)},
            {"shape": (None, None, 1)},
            r"images of different sizes, \[8, 8, 1\] and \[9, 9, 1\]",
        ),
        (
            {"train": digits(30), "test": digits(30, size=9)},
            {"shape": (None, None, 1)},
            r"test split: found uint8 images of \[9, 9, 1\]; expected uint8 images of \[8, 8, 1\]",
        ),
        (
            {"train": digits(30), "test": (digits(30)[0], ZEROS + 10)},
            {},
            "toy, test split: found label 10; expected 0 to 9",
        ),
        (
            {"train": (digits(30)[0], ZEROS - 1), "test": digits(30)},
            {},
            "toy, train split: found label -1; expected 0 to 9",
        ),
    ],
)
def test_prepared_data_sets_of_another_kind(tmp_path, splits, feature, message):
    splits = splits or {"train": digits(30), "test": digits(9)}
    write_tfds(tmp_path / "data", splits, **feature)
    with pytest.raises(DataError, match=message):
        prepare.prepare(
            "toy", data_dir=tmp_path / "data", manual_dir=None, cache_dir=tmp_path / "cache"
        )
    assert not list(tmp_path.glob("cache/toy/*"))


@pytest.mark.slow
@needs_array_record
def test_a_damaged_prepared_data_set(tmp_path):
    folder = write_tfds(tmp_path / "data", {"train": digits(300), "test": digits(9)})
    path = next(folder.glob("*train*"))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"^toy cannot be prepared: "):
        sources.load("toy", data_dir=tmp_path / "data")
    assert not list(tmp_path.glob("default_cache/toy/*"))


@pytest.mark.slow
def test_unwritable_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "manual").mkdir()
    place = tmp_path / "file" / "below"
    with pytest.raises(DataError, match=f"cache_dir {place} cannot be written to"):
        sources.load("mnist", cache_dir=place)
    if importlib.util.find_spec("tensorflow"):
        with pytest.raises(DataError, match=f"data_dir {place} cannot be written to"):
            sources.load("mnist", data_dir=place, manual_dir=tmp_path / "manual")


@pytest.mark.slow
@needs_tensorflow
def test_no_network(tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        sources.load("mnist", data_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith("mnist cannot be downloaded: ProxyError for https://")
    assert all(word in message for word in (*FILES, "manual_dir", "mnist_sample"))
    assert "\n" not in message
    # TFDS left to itself would try for more than three minutes.
    assert time.monotonic() - start < 60


@pytest.mark.slow
@needs_tensorflow
def test_files_that_are_not_the_originals(tmp_path):
    for file in FILES:
        (tmp_path / file).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match=f"{tmp_path}/.*-ubyte.gz is a different file .it begins"):
        sources.load("mnist", data_dir=tmp_path / "data", manual_dir=tmp_path)
    assert not list(tmp_path.glob("default_cache/*/*"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os._exit(7)", "preparing mnist ended with status 7"),
        ("import signal; signal.raise_signal(9)", "preparing mnist ended with status -9"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="exits as POSIX knows them")
def test_a_crash_while_preparing(tmp_path, monkeypatch, code, message):
    customize(monkeypatch, tmp_path / "site", code)
    with pytest.raises(DataError, match=message):
        sources.load("mnist", data_dir=tmp_path)
