"""Files that are not the originals byte for byte: which are damaged, which others, which right."""

import gzip
import io
import tarfile
import types
import zipfile

import numpy as np
import pytest

from stn_jax.data import originals, tfds_builders
from stn_jax.data.image_sets import DataError

LABELS = "t10k-labels-idx1-ubyte.gz"
IMAGES = "t10k-images-idx3-ubyte.gz"


def labels(counts):
    """An IDX file of labels, some of each class, mixed."""
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return (2049).to_bytes(4) + len(values).to_bytes(4) + values.astype(np.uint8).tobytes()


def images(count, side=28):
    header = b"".join(number.to_bytes(4) for number in (2051, count, side, side))
    return header + bytes(count * side * side)


MNIST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("data_set", "file", "content", "damage", "said"),
    [
        ("mnist", LABELS, labels(MNIST), bytes, None),
        ("fashion_mnist", LABELS, labels([1000] * 10), bytes, None),
        ("kmnist", IMAGES, images(10_000), bytes, None),
        ("mnist", LABELS, labels(MNIST), cut, "is damaged (it cannot be unpacked"),
        ("mnist", LABELS, labels(MNIST), flip, "is damaged (it cannot be unpacked"),
        ("mnist", LABELS, labels(MNIST), lambda data: b"<html>", "is damaged (it cannot"),
        ("mnist", LABELS, labels(MNIST)[:-1], bytes, "is damaged (it holds less than 10008"),
        ("mnist", LABELS, labels(MNIST) + b"\0", bytes, "is damaged (it holds more than 10008"),
        (
            "mnist",
            LABELS,
            b"",
            bytes,
            "is a different file (it begins with [0, 0] instead of [2049,",
        ),
        (
            "mnist",
            LABELS,
            labels([1000] * 10),
            bytes,
            "is a different file (labels by class: [1000",
        ),
        (
            "fashion_mnist",
            LABELS,
            labels(MNIST),
            bytes,
            "is a different file (labels by class: [980",
        ),
        (
            "mnist",
            IMAGES,
            images(60_000),
            bytes,
            "is a different file (it begins with [2051, 60000, 28, 28]",
        ),
        (
            "mnist",
            IMAGES,
            images(100, 14),
            bytes,
            "is a different file (it begins with [2051, 100, 14, 14]",
        ),
    ],
)
def test_what_a_file_holds(tmp_path, data_set, file, content, damage, said):
    path = tmp_path / file
    path.write_bytes(damage(gzip.compress(content, 1)))
    found = originals.fault(data_set, path)
    if said is None:
        assert found is None
        assert f"Set {originals.ACCEPT}=1" in originals.diagnose(data_set, path)
    else:
        assert found.startswith(said)
        assert originals.ACCEPT not in originals.diagnose(data_set, path)


def archives(tmp_path):
    content = np.random.default_rng(0).bytes(20_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inside", content)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        entry = tarfile.TarInfo("inside")
        entry.size = len(content)
        file.addfile(entry, io.BytesIO(content))
    return tmp_path / "a.zip", tmp_path / "a.tar.gz"


def test_for_other_data_sets_files_are_checked_to_unpack(tmp_path):
    for path in archives(tmp_path):
        assert "unpacks without error but is not the original" in originals.diagnose("emnist", path)
        path.write_bytes(flip(path.read_bytes()))
        assert f"{path} is damaged (" in originals.diagnose("emnist", path)


def test_recompressed_files_are_taken_where_the_user_says_so(tmp_path, monkeypatch, capsys):
    from tensorflow_datasets.core.download import checksums

    monkeypatch.setenv(originals.ACCEPT, "1")
    assert originals.is_accepted()
    path = tmp_path / LABELS
    path.write_bytes(gzip.compress(labels(MNIST), 1))
    expected = checksums.UrlInfo(size=3, checksum="0" * 64, filename=LABELS)
    builder = types.SimpleNamespace(name="mnist", url_infos={"http://labels": expected})
    tfds_builders._accept_recompressed("mnist", builder, tmp_path)
    assert builder.url_infos["http://labels"] == checksums.compute_url_info(path)
    assert builder.url_infos["http://labels"].filename == LABELS
    assert f"accepting recompressed file {path}" in capsys.readouterr().err
    # Once more, it is what is expected.
    tfds_builders._accept_recompressed("mnist", builder, tmp_path)
    assert capsys.readouterr().err == ""
    path.write_bytes(gzip.compress(labels([1000] * 10), 1))
    with pytest.raises(DataError, match=r"is a different file \(labels by class"):
        tfds_builders._accept_recompressed("mnist", builder, tmp_path)
    monkeypatch.setenv(originals.ACCEPT, "")
    assert not originals.is_accepted()
