"""TFDS's data sets with images of any shape and other splits than train and test."""

import importlib.util

import numpy as np
import pytest
from made_data import write_tfds

from stn_jax.data import prepare, sources
from stn_jax.data.options import DataOptions
from stn_jax.data.sources import DataError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("array_record") is None, reason="needs array_record"
)
NAMES = ["cat", "dog", "cow"]


def examples(count, shape=(8, 12, 3), seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, np.arange(count) % 3


@pytest.fixture
def load(tmp_path):
    def load(splits, shape, name="toy", **options):
        write_tfds(tmp_path / "data", splits, name=name, classes=NAMES, shape=shape)
        chosen = DataOptions(**options)
        folders = {"data_dir": tmp_path / "data", "cache_dir": tmp_path / "cache"}
        prepare.prepare(name, manual_dir=None, options=chosen, **folders)
        return sources.load(name, options=chosen, **folders)

    return load


@pytest.mark.parametrize("shape", [(8, 12, 3), (12, 5, 1), (6, 6, 4)])
def test_oblong_images_are_as_they_are_and_classes_have_names(load, shape):
    train, test = examples(9, shape), examples(5, shape, seed=1)
    found = load({"train": train, "test": test}, shape)
    np.testing.assert_array_equal(found.train.images, train[0])
    np.testing.assert_array_equal(found.test.images, test[0])
    assert found.class_names == tuple(NAMES)
    assert found.notes == ()


def test_validation_serves_where_there_is_no_test_split(load):
    train, validation = examples(9), examples(5, seed=1)
    found = load({"train": train, "validation": validation}, (8, 12, 3))
    np.testing.assert_array_equal(found.test.images, validation[0])
    assert found.notes == ("no test split: the validation split serves as one",)


def test_without_either_a_part_of_each_class_is_drawn(load):
    images, labels = examples(30)
    found = load({"train": (images, labels)}, (8, 12, 3), test_fraction=0.3)
    assert np.bincount(found.test.labels).tolist() == [3, 3, 3]
    both = np.concatenate([found.train.images, found.test.images])
    assert {x.tobytes() for x in both} == {x.tobytes() for x in images}
    assert found.notes == ("no test split: 30 % of each class were drawn as one (seed 0)",)
    assert found.name == "toy"


def test_images_of_several_sizes_are_padded_to_the_size_asked_for(load):
    mixed = [np.full((6, 12, 3), 200, np.uint8), np.full((12, 6, 3), 100, np.uint8)] * 3
    splits = {"train": (mixed, np.arange(6) % 3), "test": examples(3, (12, 12, 3))}
    with pytest.raises(DataError, match="resize them, with padding, by image_size, such as 64x64"):
        load(splits, (None, None, 3))
    found = load(splits, (None, None, 3), name="again", image_size=(12, 12))
    wide, high = found.train.images[:2]
    assert (wide[3:9] == 200).all()
    assert (wide[:3] == 0).all()
    assert (high[:, 3:9] == 100).all()
    assert (high[:, 9:] == 0).all()
    np.testing.assert_array_equal(found.test.images, splits["test"][0])
    assert found.notes == (
        "images of 3 sizes, from 6x6 to 12x12, were resized with padding to 12x12",
    )


def test_colors_become_gray_where_asked_for(load):
    found = load({"train": examples(6), "test": examples(3)}, (8, 12, 3), channels=1)
    assert found.train.images.shape == (6, 8, 12, 1)
    assert found.notes == ("images with 3 channels were converted to 1",)
