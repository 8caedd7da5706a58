"""A cache of made-up house numbers."""

import pytest
from made_numbers import made

from stn_jax.data import cache


@pytest.fixture(scope="module")
def svhn_cache(tmp_path_factory):
    """A cache of a few made-up house numbers and single digits."""
    root = tmp_path_factory.mktemp("svhn")
    splits = {"train": (40, [made(40, 64)]), "test": (7, [made(7, 64, 1)])}
    cache.write(root / "svhn_numbers", "svhn_numbers", "1.0.0", 11, splits)
    (images, labels), (test, test_labels) = made(40, 32), made(7, 32, 1)
    splits = {"train": (40, [(images, labels[:, 0])]), "test": (7, [(test, test_labels[:, 0])])}
    cache.write(root / "svhn_cropped", "svhn_cropped", "3.1.0", 10, splits)
    return root
