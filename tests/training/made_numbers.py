"""Made-up house numbers, and configurations of small networks that read them."""

import numpy as np

from stn_jax.data import house_numbers
from stn_jax.training import Config


def made(count, side, seed=0):
    """Random images, and random house numbers."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    numbers = [rng.integers(0, 10, rng.integers(1, 6)).tolist() for _ in range(count)]
    return images, np.stack([house_numbers.labels_of(number) for number in numbers])


def config_of(root, **values):
    fields = {
        "task": "svhn",
        "variant": "cnn",
        "dataset": "svhn_numbers",
        "cache_dir": str(root),
        "width": 1 / 48,
        "batch_size": 8,
        "epochs": 1,
        "schedule": "constant",
        "test_passes": 1,
        "figures": False,
        "localization_rate": 0.1,
    }
    return Config(**{**fields, **values})
