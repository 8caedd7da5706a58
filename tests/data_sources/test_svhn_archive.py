"""Archives of SVHN's full numbers: read exactly, in little memory; faults told by file."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("h5py")

import made_svhn
from made_svhn import cut, cut_tar, digit_struct, numbers, png, write_archive

from stn_jax.data.svhn_numbers import archive
from stn_jax.data.svhn_numbers.archive import ArchiveError


def read(path):
    """All entries and all faults of an archive."""
    faults = []
    return list(archive.read(path, faults.append)), [str(fault) for fault in faults]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_and_boxes_of_the_real_archives(svhn_dir, split):
    # Published separately, in another format, by others.
    labels = json.loads(gzip.decompress((svhn_dir / "number_labels.json.gz").read_bytes()))[split]
    entries, faults = read(svhn_dir / f"{split}.tar.gz")
    assert not faults
    assert len(entries) == {"train": 256, "test": 128}[split]
    for entry in entries:
        known = labels[entry.name]
        assert "".join(map(str, entry.digits)) == known["label"]
        assert entry.boxes.tolist() == known["boxes"]
        assert [*entry.size, 3] == known["size"]


@pytest.mark.parametrize("labels_first", [False, True])
def test_what_is_written_is_read(tmp_path, labels_first):
    made = numbers(20)
    entries, faults = read(write_archive(tmp_path / "a.tar.gz", made, labels_first=labels_first))
    assert not faults
    assert [entry.name for entry in entries] == [f"{i}.png" for i in range(1, 21)]
    for entry, (image, digits, boxes) in zip(entries, made, strict=True):
        assert entry.png == png(image)
        assert entry.size == image.shape[1::-1]
        assert entry.digits == digits
        np.testing.assert_array_equal(entry.boxes, boxes)
        assert entry.boxes.dtype == np.int32


@pytest.mark.slow
def test_memory_does_not_grow_with_the_archive(tmp_path):
    rng = np.random.default_rng(0)

    def peak(times):
        pictures = rng.integers(0, 256, (times, 60, 60, 3), dtype=np.uint8)
        path = write_archive(tmp_path / "a.tar.gz", [(p, [1], [[2, 2, 9, 9]]) for p in pictures])
        tracemalloc.start()
        count = sum(1 for _ in archive.read(path, lambda fault: None))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == times
        return most, path.stat().st_size

    peak(4)  # what is imported and set up once
    (few, small), (many, large) = peak(40), peak(400)
    assert large - small > 3_000_000
    assert many - few < 100_000


# --- faults ----------------------------------------------------------------------------------


def changed(i, digits=None, boxes=None):
    made = numbers(6)
    image, old_digits, old_boxes = made[i]
    made[i] = image, old_digits if digits is None else digits, old_boxes if boxes is None else boxes
    return made


GOOD = numbers(6)
IMAGE = GOOD[2][0]
HEIGHT, WIDTH = IMAGE.shape[:2]
FAULTS = {
    "no PNG": (GOOD, {"3.png": b"GIF89a"}, "it is not a readable PNG"),
    "empty": (GOOD, {"3.png": b""}, "it is not a readable PNG"),
    "cut PNG": (GOOD, {"3.png": png(IMAGE)[:-200]}, "it is not a readable PNG"),
    "broken PNG": (
        GOOD,
        {"3.png": png(IMAGE)[:300] + b"\0" * 50 + png(IMAGE)[350:]},
        "it is not a readable PNG",
    ),
    "gray": (GOOD, {"3.png": png(IMAGE[..., 0])}, "pixels of mode L; expected RGB"),
    "missing": (GOOD, {"3.png": None}, "it has labels, but is missing"),
    "left of it": (
        changed(2, [7], [[-9, 2, 0, 9]]),
        {},
        r"box \[-9, 2, 0, 9\] is empty or outside",
    ),
    "right of it": (
        changed(2, [7], [[WIDTH, 2, WIDTH + 5, 9]]),
        {},
        f"empty or outside the image of {WIDTH}x{HEIGHT}",
    ),
    "below": (changed(2, [7], [[2, HEIGHT, 9, HEIGHT + 9]]), {}, "is empty or outside"),
    "no area": (changed(2, [7], [[4, 4, 4, 9]]), {}, "is empty or outside"),
    "second box": (changed(2, [7, 1], [[4, 4, 9, 9], [9, -9, 12, -2]]), {}, r"\[9, -9, 12, -2\]"),
    "label": (changed(2, [11], [[4, 4, 9, 9]]), {}, "the label 11; expected 1 to 10"),
    "no digits": (changed(2, [], np.zeros((0, 4))), {}, "or are 0"),
    "half pixels": (changed(2, [7], [[4, 4.5, 9, 9]]), {}, "not whole numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_by_file_and_the_other_files_are_read(tmp_path, fault):
    made, files, message = FAULTS[fault]
    entries, faults = read(write_archive(tmp_path / "train.tar.gz", made, files=files))
    assert [entry.name for entry in entries] == ["1.png", "2.png", "4.png", "5.png", "6.png"]
    assert len(faults) == 1
    assert faults[0].startswith("train.tar.gz: 3.png: ")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(faults[0])


def test_boxes_over_the_edge_stay_as_they_are(tmp_path):
    box = [[-3, -1, 9, HEIGHT + 2]]
    entries, faults = read(write_archive(tmp_path / "a.tar.gz", changed(2, [7], box)))
    assert not faults
    assert entries[2].boxes.tolist() == box


@pytest.mark.parametrize("name", ["7.png", "x.png", "0.png", "-1.png", "³.png"])
def test_an_image_without_labels(tmp_path, name):
    path = write_archive(tmp_path / "a.tar.gz", GOOD, files={name: png(IMAGE)})
    entries, faults = read(path)
    assert len(entries) == 6
    assert faults == [f"a.tar.gz: {name}: digitStruct.mat has no labels for it"]


def test_an_image_that_is_there_twice(tmp_path):
    path = write_archive(tmp_path / "a.tar.gz", GOOD, files={"x/2.png": png(IMAGE)})
    entries, faults = read(path)
    assert len(entries) == 6
    assert faults == ["a.tar.gz: 2.png: it occurs twice in the archive"]


@pytest.mark.parametrize("cutting", [cut, cut_tar])
def test_an_archive_that_was_cut_off_behind_its_labels(tmp_path, cutting):
    made = numbers(30)
    path = write_archive(tmp_path / "train.tar.gz", made, labels_first=True)
    cutting(path, 0.8)
    entries, faults = read(path)
    names = [entry.name for entry in entries]
    assert names == [f"{i}.png" for i in range(1, len(names) + 1)]
    assert 0 < len(names) < 30
    if cutting is cut:
        assert faults.pop(0).startswith("train.tar.gz: it is damaged or truncated")
    lost = [f"train.tar.gz: {i}.png: it has labels, but is missing" for i in range(1, 31)]
    assert faults[-(30 - len(names)) :][1:] == lost[len(names) + 1 :]


def test_a_byte_that_has_changed_is_found(tmp_path):
    path = write_archive(tmp_path / "train.tar.gz", numbers(30), labels_first=True)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # in the checksum at the very end, behind all images
    path.write_bytes(data)
    entries, faults = read(path)
    assert len(entries) == 30
    assert len(faults) == 1
    assert faults[0].startswith("train.tar.gz: it is damaged or truncated, CRC check failed")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"<html>"), "Not a gzip"),
        (lambda path: path.write_bytes(gzip.compress(b"no tar" * 500)), "damaged or truncated"),
        (
            lambda path: cut(write_archive(path, GOOD), 0.3),
            r"truncated before its digitStruct\.mat",
        ),
        (lambda path: write_archive(path, GOOD, labels=b"x"), r"digitStruct\.mat cannot be read"),
        (
            lambda path: write_archive(path, GOOD, labels=digit_struct(GOOD)[:3000]),
            r"digitStruct\.mat cannot be read",
        ),
        (lambda path: made_svhn.write_archive(path, [], labels=b""), "cannot be read"),
    ],
)
def test_archives_without_labels_are_rejected(tmp_path, make, message):
    path = tmp_path / "train.tar.gz"
    make(path)
    with pytest.raises(ArchiveError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_ends_where_a_fault_is_rejected(tmp_path):
    path = write_archive(tmp_path / "train.tar.gz", GOOD, files={"3.png": b""})
    seen = []

    def refuse(fault):
        raise ArchiveError(str(fault))

    with pytest.raises(ArchiveError, match=r"train\.tar\.gz: 3\.png: "):
        seen.extend(entry.name for entry in archive.read(path, refuse))
