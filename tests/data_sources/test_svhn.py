"""SVHN through TFDS: whole numbers by our builder, single digits by TFDS's own."""

import gzip
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("h5py")

from made_svhn import cut, numbers, png, write_archive
from needs import needs_tensorflow

from stn_jax.data import house_numbers, sources
from stn_jax.data.sources import DataError

pytestmark = [needs_tensorflow, pytest.mark.usefixtures("no_network")]


def archives(folder, train=12, test=5, extra=4, **options):
    """Writes archives of made numbers; returns the numbers by split."""
    made = {}
    for seed, (split, count) in enumerate({"train": train, "test": test, "extra": extra}.items()):
        if count:
            made[split] = numbers(count, seed)
            changes = options if split == "train" else {}
            write_archive(folder / f"{split}.tar.gz", made[split], **changes)
    return made


def load(tmp_path, name="svhn_numbers/custom", manual_dir=None):
    return sources.load(
        name,
        manual_dir=manual_dir or tmp_path,
        data_dir=tmp_path / "data",
        cache_dir=tmp_path / "cache",
    )


def metadata(tmp_path, config):
    path = tmp_path / "data" / "svhn_numbers" / config / "1.0.0" / "metadata.json"
    return json.loads(path.read_text())


def program(code, *arguments):
    """Runs Python code in another process, and returns what it prints."""
    here = pathlib.Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(here)])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("dill") is None, reason="TFDS's tests need dill")
def test_tfds_own_test_of_the_builder():
    case = pathlib.Path(__file__).with_name("svhn_builder_case.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, case], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\nOK" in done.stderr


def as_pairs(images, labels):
    """Images with their labels, in an order that does not depend on TFDS's."""
    pairs = zip(images, labels, strict=True)
    return sorted((image.tobytes(), label.tobytes()) for image, label in pairs)


def test_archives_become_crops_and_labels(tmp_path, capfd):
    made = archives(tmp_path)
    made["train"].append((*numbers(1, 9)[0][:1], [1, 2, 3, 4, 5, 6], [[9, 9, 12, 15]] * 6))
    write_archive(tmp_path / "train.tar.gz", made["train"])
    source = load(tmp_path)
    assert (source.version, source.num_classes) == ("1.0.0", 11)
    for split, parts in (("train", ("train", "extra")), ("test", ("test",))):
        known = [each for part in parts for each in made[part] if len(each[1]) <= 5]
        images = [house_numbers.crop_number(image, boxes) for image, _, boxes in known]
        labels = [house_numbers.labels_of(digits) for _, digits, _ in known]
        ours = getattr(source, split)
        assert ours.images.shape == (len(known), 64, 64, 3)
        assert isinstance(ours.images, np.memmap)
        assert as_pairs(ours.images, ours.labels) == as_pairs(images, labels)
    scaled = source.train.images / np.float64(255)
    np.testing.assert_allclose(source.statistics[0], scaled.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(source.statistics[1], scaled.std((0, 1, 2)), atol=1e-6)
    assert "train split, dropped 1 with more than 5 digits" in capfd.readouterr().err


@pytest.mark.slow
def test_extra_may_be_missing_from_archives_of_ones_own(tmp_path):
    archives(tmp_path, extra=0)
    assert len(load(tmp_path).train.labels) == 12
    os.unlink(tmp_path / "test.tar.gz")
    with pytest.raises(DataError, match=r"needs train\.tar\.gz and test\.tar\.gz.*found train"):
        sources.load("svhn_numbers/custom", manual_dir=tmp_path, cache_dir=tmp_path / "other")


@pytest.mark.slow
def test_unreadable_lines_are_skipped_and_reported(tmp_path, capfd):
    bad = png(numbers(1)[0][0])[:-300]
    archives(tmp_path, files={"3.png": bad, "5.png": None})
    assert len(load(tmp_path).train.labels) == 10 + 4
    faults = metadata(tmp_path, "custom")["faults"]
    assert faults["test"] == {"count": 0, "files": {}}
    assert faults["train"]["count"] == 2
    assert set(faults["train"]["files"]) == {"train.tar.gz: 3.png", "train.tar.gz: 5.png"}
    said = capfd.readouterr().err
    assert "2 files of the train split skipped (train.tar.gz: 3.png: it is not a" in said
    assert "train.tar.gz: 5.png: it has labels, but is missing" in said


@pytest.mark.slow
def test_an_archive_without_its_labels_is_rejected(tmp_path):
    archives(tmp_path)
    cut(tmp_path / "train.tar.gz", 0.5)
    with pytest.raises(DataError, match=r"train\.tar\.gz is damaged or truncated before its digit"):
        load(tmp_path)


@pytest.mark.slow
def test_the_strict_configuration_rejects_a_fault(tmp_path):
    archives(tmp_path, files={"3.png": b""})
    code = """
        import pathlib, sys
        from unittest import mock
        from stn_jax.data.svhn_numbers.archive import ArchiveError
        from stn_jax.data.svhn_numbers.svhn_numbers_dataset_builder import Builder
        builder = Builder(config="strict", data_dir=sys.argv[1] + "/data")
        path = pathlib.Path(sys.argv[1]) / "train.tar.gz"
        try:
            list(builder._generate_examples("train", path))
        except ArchiveError as error:
            print(error)
    """
    said = program(code, tmp_path)
    assert said.startswith("train.tar.gz: 3.png: it is not a readable PNG")
    assert said.rstrip().endswith("(the configuration strict refuses)")


@pytest.mark.slow
def test_published_archives_are_known_by_their_checksums(tmp_path):
    archives(tmp_path)
    with pytest.raises(DataError, match=r"\.tar\.gz unpacks without error but is not the original"):
        load(tmp_path, "svhn_numbers")
    # Without copies it would be downloaded: the message names what to get.
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"svhn_numbers cannot be downloaded: .*train\.tar\.gz"):
        load(tmp_path, "svhn_numbers", tmp_path / "empty")


@pytest.mark.slow
def test_the_real_archives(svhn_dir, tmp_path):
    source = load(tmp_path, manual_dir=svhn_dir)
    assert source.train.images.shape == (256, 64, 64, 3)
    assert source.test.images.shape == (128, 64, 64, 3)
    known = json.loads(gzip.decompress((svhn_dir / "number_labels.json.gz").read_bytes()))
    code = """
        import json, sys
        import stn_jax.data.svhn_numbers.svhn_numbers_dataset_builder
        import tensorflow_datasets as tfds
        builder = tfds.builder("svhn_numbers/custom", data_dir=sys.argv[1])
        skip = {"image": tfds.decode.SkipDecoding()}
        for split in ("train", "test"):
            for e in builder.as_data_source(split, decoders=skip):
                name, number = e["file_name"].decode(), e["number"].decode()
                digits = [int(digit) for digit in e["digits"]]
                print(json.dumps([name, number, digits, e["boxes"].tolist()]))
    """
    lines = [json.loads(line) for line in program(code, tmp_path / "data").splitlines()]
    assert len(lines) == 384
    for file_name, number, digits, boxes in lines:
        split, name = file_name.split("/")
        assert number == known[split][name]["label"] == "".join(map(str, digits))
        assert boxes == known[split][name]["boxes"]


# --- single digits ---------------------------------------------------------------------------


@pytest.mark.slow
def test_svhn_cropped_from_files_of_its_layout(svhn_dir, tmp_path):
    from scipy.io import loadmat

    # These files are excerpts, so that TFDS's checksums are not theirs: here alone they are lifted.
    code = """
        import pathlib, sys
        from unittest import mock
        from tensorflow_datasets.core.download import checksums
        from stn_jax.data import prepare
        same = mock.patch.object(checksums.UrlInfo, "__eq__", lambda self, other: True)
        folder = pathlib.Path(sys.argv[2])
        with same:
            prepare.prepare(
                "svhn_cropped",
                data_dir=folder / "data",
                manual_dir=pathlib.Path(sys.argv[1]),
                cache_dir=folder / "cache",
            )
    """
    (tmp_path / "data").mkdir()
    program(code, svhn_dir, tmp_path)
    source = sources.load("svhn_cropped", cache_dir=tmp_path / "cache")
    assert source.num_classes == 10
    for split in ("train", "test"):
        original = loadmat(svhn_dir / f"{split}_32x32.mat")
        images, labels = np.moveaxis(original["X"], -1, 0), original["y"][:, 0] % 10
        ours = getattr(source, split)
        assert ours.images.shape == (len(labels), 32, 32, 3)
        theirs = as_pairs(images, labels.astype(np.int32))
        assert as_pairs(ours.images, ours.labels) == theirs
