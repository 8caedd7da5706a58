"""A user's own images: folders and files of arrays."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from stn_jax.data import image_folder, sources
from stn_jax.data.options import DataOptions
from stn_jax.data.sources import DataError

GRAY = np.arange(12 * 12, dtype=np.uint8).reshape(12, 12)


def save(path, pixels=GRAY, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)


def write(folder, classes=("cat", "dog"), count=5, shape=(12, 12), seed=0):
    """Random gray PNGs in class subfolders; the pixels by class and file."""
    rng = np.random.default_rng(seed)
    written = {}
    for name in classes:
        for i in range(count):
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            save(folder / name / f"{i}.png", pixels)
            written[name, i] = pixels
    return written


@pytest.fixture
def load(tmp_path):
    def load(path, kind="folder", **options):
        return sources.load(
            f"{kind}:{path}", cache_dir=tmp_path / "cache", options=DataOptions(**options)
        )

    return load


def pairs(*splits):
    """The images and labels of splits, as a set."""
    return {(x.tobytes(), int(y)) for s in splits for x, y in zip(s.images, s.labels, strict=True)}


def test_class_subfolders_are_split_by_class(tmp_path, load):
    names = ("class 10", "class 2", "class 1")
    written = write(tmp_path / "in", names, count=10)
    found = load(tmp_path / "in")
    assert found.class_names == ("class 1", "class 2", "class 10")  # in natural order
    expected = {
        (pixels.tobytes(), found.class_names.index(name)) for (name, _), pixels in written.items()
    }
    assert pairs(found.train, found.test) == expected
    assert found.train.images.shape == (24, 12, 12, 1)
    assert np.bincount(found.test.labels).tolist() == [2, 2, 2]
    assert found.notes == ("no test split: 20 % of each class were drawn as one (seed 0)",)
    again, other = load(tmp_path / "in"), load(tmp_path / "in", split_seed=1)
    assert pairs(again.test) == pairs(found.test) != pairs(other.test)
    half = load(tmp_path / "in", test_fraction=0.5)
    assert np.bincount(half.test.labels).tolist() == [5, 5, 5]


@pytest.mark.parametrize("test", ["test", "val"])
def test_train_and_test_folders_are_kept_apart(tmp_path, load, test):
    train = write(tmp_path / "in" / "train", count=3)
    tested = write(tmp_path / "in" / test, count=2, seed=1)
    found = load(tmp_path / "in")
    assert {x.tobytes() for x in found.train.images} == {x.tobytes() for x in train.values()}
    assert {x.tobytes() for x in found.test.images} == {x.tobytes() for x in tested.values()}
    assert found.notes == ()
    shutil.rmtree(tmp_path / "in" / test)
    assert len(load(tmp_path / "in").test.images) == 2


def test_examples_are_not_sorted_by_class(tmp_path, load):
    # The last ones may be held out of the training, and the first ones be shown.
    write(tmp_path / "in", "abc", count=30)
    np.savez(tmp_path / "a.npz", **arrays(90) | {"labels": np.arange(90) // 30})
    for found in (load(tmp_path / "in"), load(tmp_path / "a.npz", "npz")):
        for split in (found.train, found.test):
            assert len({*split.labels[:10]}) == len({*split.labels[-10:]}) == 3


def test_a_class_may_be_called_train(tmp_path, load):
    write(tmp_path / "in", ("train", "bus"))
    assert load(tmp_path / "in").class_names == ("bus", "train")


def test_images_of_several_sizes_are_padded_to_the_median(tmp_path, load):
    for i, shape in enumerate([(10, 20), (12, 24), (14, 28)] * 2):
        save(tmp_path / "in" / "ab"[i % 2] / f"{i}.png", np.full(shape, 200, np.uint8))
    found = load(tmp_path / "in")
    assert found.train.images.shape[1:] == (12, 24, 1)
    assert "images of 3 sizes, from 10x20 to 14x28, were resized with padding to 12x24" in (
        found.notes
    )
    square = load(tmp_path / "in", image_size=(16, 16)).train.images
    # As wide as the square and half as high, in its middle.
    assert (square[:, 4:12] == 200).all()
    assert (square[:, :4] == 0).all()
    assert (square[:, 12:] == 0).all()


def test_one_size_is_kept_as_it_is(tmp_path, load):
    write(tmp_path / "in", shape=(7, 19))
    found = load(tmp_path / "in")
    assert found.train.images.shape[1:] == (7, 19, 1)
    assert len(found.notes) == 1


RGBA = np.stack([GRAY, GRAY.T, 255 - GRAY, np.full_like(GRAY, 255)], -1)


@pytest.mark.parametrize(
    ("name", "pixels", "mode", "expected"),
    [
        ("a.png", GRAY, None, GRAY[..., None]),
        ("a.png", GRAY, "LA", RGBA[..., [0, 3]]),
        ("a.png", RGBA[..., :3], None, RGBA[..., :3]),
        ("a.png", RGBA, None, RGBA),
        ("a.bmp", RGBA[..., :3], None, RGBA[..., :3]),
        ("a.tif", GRAY.astype(np.uint16) * 256 + 7, None, GRAY[..., None]),
        ("a.PNG", GRAY > 70, None, (GRAY > 70)[..., None] * np.uint8(255)),
    ],
)
def test_one_to_four_channels(tmp_path, load, name, pixels, mode, expected):
    for folder in "xy":
        for i in range(2):
            save(tmp_path / "in" / folder / f"{i}{name}", pixels, mode)
    found = load(tmp_path / "in")
    np.testing.assert_array_equal(found.train.images[0], expected)


def test_mixed_channels_become_the_richest_or_those_asked_for(tmp_path, load):
    for folder in "xy":
        save(tmp_path / "in" / folder / "gray.png")
        save(tmp_path / "in" / folder / "color.png", RGBA[..., :3])
    found = load(tmp_path / "in")
    assert found.train.images.shape[-1] == 3
    assert "images with 1 or 3 channels were converted to 3" in found.notes
    assert load(tmp_path / "in", channels=1).train.images.shape[-1] == 1


def test_photographs_are_upright(tmp_path, load):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 8:] = 255
    for folder in "xy":
        for i in range(2):
            save(tmp_path / "in" / folder / f"{i}.png", pixels, exif=exif)
    found = load(tmp_path / "in").train.images[0, ..., 0]
    np.testing.assert_array_equal(found, np.rot90(pixels, -1))


def test_decoded_images_are_cached_until_a_file_changes(tmp_path, load, monkeypatch):
    folder, path = tmp_path / "in", tmp_path / "in" / "cat" / "0.png"
    write(folder)
    first = load(folder)
    decoded = []
    decode = image_folder._decode
    monkeypatch.setattr(
        image_folder, "_decode", lambda *args: [decoded.append(1), decode(*args)][1]
    )
    assert pairs(load(folder).train) == pairs(first.train)
    assert decoded == []
    save(path, GRAY)
    load(folder)
    os.utime(path, ns=(1, 1))
    load(folder)
    path.rename(path.with_name("9.png"))
    load(folder)
    assert len(decoded) == 3
    # What was decoded from older files is gone.
    (place,) = (tmp_path / "cache" / "folders").iterdir()
    assert len(list(place.iterdir())) == 1


def test_all_unreadable_files_are_named_in_one_error(tmp_path, load):
    folder = tmp_path / "in"
    write(folder)
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "text.jpg").write_text("no image")
    save(folder / "dog" / "floats.tif", np.ones((12, 12), np.float32))
    (folder / "dog" / "link.png").symlink_to("nowhere.png")
    (folder / "dog" / "notes.txt").write_text("ignored")
    (folder / "dog" / ".DS_Store").write_text("ignored, and not counted")
    with pytest.raises(DataError) as caught:
        load(folder)
    message = str(caught.value)
    for part in ("cat/torn.png", "dog/text.jpg", "dog/link.png", "skip_unreadable"):
        assert part in message
    found = load(folder, skip_unreadable=True)
    assert len(found.train.images) + len(found.test.images) == 10
    assert "1 files that are not images were ignored" in found.notes
    listed = next(note for note in found.notes if note.startswith("4 unreadable files"))
    for name in ("torn", "text", "floats", "link"):
        assert name in listed
    assert load(folder, skip_unreadable=True).notes == found.notes  # from the cache, too


def empty(folder):
    folder.mkdir()


def flat(folder):
    save(folder / "a.png")


def one_class(folder):
    write(folder, ("cat",))


def single(folder):
    write(folder, ("cat",))
    write(folder, ("dog",), count=1)


def new_in_test(folder):
    write(folder / "train")
    write(folder / "test", ("cat", "cow"))


def no_tests(folder):
    write(folder / "train")
    (folder / "test" / "cat").mkdir(parents=True)


def all_broken(folder):
    for name in "ab":
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").write_text("no image")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is not a folder; expected one with a subfolder of images"),
        (empty, r"no subfolders with images \(0 images in the folder itself\)"),
        (flat, r"no subfolders with images \(1 images in the folder itself\)"),
        (one_class, "a single class, cat"),
        (single, "a single image of class dog"),
        (new_in_test, "classes without training images: cow"),
        (no_tests, "test has no images"),
        (all_broken, "2 files of .* cannot be read"),
    ],
)
def test_folders_of_another_layout(tmp_path, load, make, message):
    make(tmp_path / "in")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "in", skip_unreadable=True)
    assert not list((tmp_path / "cache").glob("**/*.npy"))


def test_a_set_that_is_too_large_is_refused_with_what_would_fit(tmp_path, load):
    write(tmp_path / "in")
    message = r"10 images of .*12x12x1, take .* image_size=8x8, or 5 images of this size"
    with pytest.raises(DataError, match=message):
        load(tmp_path / "in", max_bytes=5 * 144)
    assert not (tmp_path / "cache" / "folders").exists()
    assert load(tmp_path / "in", max_bytes=5 * 144, image_size=(8, 8))


# --- arrays ------------------------------------------------------------------------------------


def arrays(count=20, shape=(6, 8, 3), classes=4, **more):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return {"images": images, "labels": np.arange(count) % classes, **more}


def test_arrays_with_a_drawn_test_split(tmp_path, load):
    given = arrays()
    np.savez(tmp_path / "a.npz", **given)
    found = load(tmp_path / "a.npz", "npz")
    assert (found.num_classes, found.class_names) == (4, None)
    assert pairs(found.train, found.test) == pairs(sources.Split(given["images"], given["labels"]))
    assert np.bincount(found.test.labels).tolist() == [1] * 4
    assert found.test.labels.dtype == np.int32


def test_arrays_with_a_test_split_of_their_own(tmp_path, load):
    images = np.random.default_rng(0).random((6, 5, 7)).astype(np.float64)
    labels = np.array(["b", "a10", "a9"] * 2)
    np.savez(
        tmp_path / "a.npz",
        images=images,
        labels=labels,
        test_images=images[:3, ..., None],
        test_labels=labels[:3],
    )
    found = load(tmp_path / "a.npz", "npz")
    assert found.class_names == ("a9", "a10", "b")
    rounded = np.round(255 * images).astype(np.uint8)
    assert pairs(found.train) == pairs(sources.Split(rounded, [2, 1, 0] * 2))
    assert pairs(found.test) == pairs(sources.Split(rounded[:3], [2, 1, 0]))
    assert found.notes == ("floating-point pixels were rounded to 8 bits",)


def test_labels_that_do_not_count_from_0_are_named(tmp_path, load):
    np.savez(tmp_path / "a.npz", **arrays() | {"labels": np.arange(20) % 2 * 5 + 3})
    found = load(tmp_path / "a.npz", "npz")
    assert (found.num_classes, found.class_names) == (2, ("3", "8"))
    names = np.array(["cat", "dog", "cow", "hen"])
    np.savez(tmp_path / "a.npz", **arrays(class_names=names))
    assert load(tmp_path / "a.npz", "npz").class_names == tuple(names)


IMAGES = arrays()["images"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": None}, "has no array labels; it has images; expected images, labels, and"),
        ({"test_images": IMAGES}, "has no array test_labels"),
        ({"images": IMAGES.astype(np.int64)}, r"int64 .*; expected uint8, or floats from 0 to 1"),
        ({"images": IMAGES * 1.0}, r"float64 .* from 0 to 255; expected floats from 0 to 1"),
        ({"images": np.full(IMAGES.shape, np.nan)}, "from nan to nan"),
        ({"images": IMAGES.repeat(2, -1)}, "with 1 to 4 channels"),
        ({"images": IMAGES[:0]}, r"\[0, 6, 8, 3\]"),
        ({"labels": np.arange(19)}, "expected one label per image"),
        ({"labels": np.ones(20)}, "float64 .*expected integers or strings"),
        ({"labels": np.ones(20, int)}, "a single class, 1"),
        ({"labels": np.arange(20)}, "a single image of class 0"),
        ({"class_names": np.array(["a", "b"])}, "from 0 to 3; expected numbers from 0 to 1"),
        ({"class_names": np.arange(4)}, "class_names of .* expected strings"),
        (
            {"test_images": IMAGES[:, :5], "test_labels": np.arange(20) % 4},
            r"test_images of .* have shape \(5, 8, 3\), and images \(6, 8, 3\)",
        ),
        ({"test_images": IMAGES, "test_labels": np.arange(20)}, "hold 10, which is not among its"),
    ],
)
def test_arrays_that_will_not_do(tmp_path, load, given, message):
    made = {name: value for name, value in (arrays() | given).items() if value is not None}
    np.savez(tmp_path / "a.npz", **made)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.npz", "npz")


def test_files_that_are_no_arrays(tmp_path, load):
    with pytest.raises(DataError, match=r"a.npz cannot be read: No such file"):
        load(tmp_path / "a.npz", "npz")
    (tmp_path / "a.npz").write_text("no arrays")
    with pytest.raises(DataError, match=r"a.npz is damaged"):
        load(tmp_path / "a.npz", "npz")
    np.savez(tmp_path / "a.npz", **arrays())
    with pytest.raises(DataError, match="apply to image files"):
        load(tmp_path / "a.npz", "npz", image_size=(8, 8))
    with pytest.raises(DataError, match="20 images of npz"):
        load(tmp_path / "a.npz", "npz", max_bytes=100)


def test_options_that_do_not_apply_are_refused(tmp_path):
    with pytest.raises(DataError, match="do not apply to mnist_sample"):
        sources.load("mnist_sample", options=DataOptions(channels=3))
