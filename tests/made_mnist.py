"""A small data set named "mnist", for tests that train."""

from pathlib import Path

from stn_jax.data import cache, sources


def write(cache_dir: Path, train: int, test: int) -> None:
    """Writes the first digits of the sample in the package to a folder of decoded arrays."""
    sample = sources.load("mnist_sample")
    splits = {
        name: (count, [(split.images[:count], split.labels[:count])])
        for name, split, count in (("train", sample.train, train), ("test", sample.test, test))
    }
    cache.write(cache_dir / "mnist", "mnist", "3.0.1", 10, splits)
