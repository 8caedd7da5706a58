"""Data sets that are drawn from another one: MNIST-rot."""

import hashlib

import made_mnist
import numpy as np
import pytest

from stn_jax.data import derived, sources
from stn_jax.data.image_sets import Source, Split

DIGEST = "2c1d5e6b7f5d9e057da826b8b2526b2d76065a68bf219421d4a473c195e72d1a"


@pytest.fixture(scope="module")
def numbered():
    """As many images as MNIST has, of one pixel; the labels are the numbers of the images."""
    train, test = np.arange(60_000, dtype=np.int32), np.arange(60_000, 70_000, dtype=np.int32)
    splits = (Split((n % 251).astype(np.uint8)[:, None, None, None], n) for n in (train, test))
    return Source("mnist", "3.0.1", 10, *splits)


def test_mnist_rot_has_the_usual_sizes_and_no_digit_twice(numbered):
    found = derived.mnist_rot(numbered)
    assert (len(found.train.labels), len(found.test.labels)) == (12_000, 50_000)
    drawn = np.concatenate([found.train.labels, found.test.labels])
    assert len(np.unique(drawn)) == 62_000
    for split in (found.train, found.test):
        np.testing.assert_array_equal(split.images.ravel(), split.labels % 251)
        assert not split.images.flags.writeable
        # From both splits of MNIST, in proportion.
        assert np.mean(split.labels < 60_000) == pytest.approx(6 / 7, abs=0.01)
    assert (found.name, found.version, found.num_classes) == ("mnist_rot", "3.0.1", 10)


def test_mnist_rot_is_the_same_everywhere(numbered):
    train = derived.mnist_rot(numbered).train.labels
    assert train[:5].tolist() == [33454, 45101, 2459, 22346, 34124]
    order = derived.permutation(70_000).astype("<i4")
    assert hashlib.sha256(order.tobytes()).hexdigest() == DIGEST


def test_mnist_rot_of_the_cached_mnist(tmp_path):
    made_mnist.write(tmp_path, 500, 200)
    found = sources.load("mnist_rot", cache_dir=tmp_path)
    assert (len(found.train.images), len(found.test.images)) == (120, 500)
    assert found.train.images.shape[1:] == (28, 28, 1)
    assert any("120 training and 500 test digits" in note for note in found.notes)
    mnist = sources.load("mnist", cache_dir=tmp_path)
    every = np.concatenate([mnist.train.images, mnist.test.images])
    order = derived.permutation(700)
    np.testing.assert_array_equal(found.train.images, every[order[:120]])
    assert not (tmp_path / "mnist_rot").exists()
