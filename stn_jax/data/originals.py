"""Checks files that are not a data set's originals: damaged, different, or recompressed."""

import gzip
import os
import pathlib
import struct
import zipfile
import zlib

import numpy as np

# Set to 1 to accept files with the right content that differ from the originals byte by byte.
ACCEPT = "STN_JAX_ACCEPT_RECOMPRESSED"

# For data sets in MNIST's format: the number of training and test images of each class.
_EQUAL = {"train": [6000] * 10, "t10k": [1000] * 10}
_LABELS = {
    "mnist": {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "t10k": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    },
    "fashion_mnist": _EQUAL,
    "kmnist": _EQUAL,
}
_SIDE = 28
_UNPACKING = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError)


def is_accepted() -> bool:
    """Whether the user accepts recompressed files."""
    return os.environ.get(ACCEPT, "").lower() in ("1", "true", "yes")


def is_known(name: str) -> bool:
    """Whether the expected content of a data set's files is known."""
    return name in _LABELS


def fault(name: str, path: pathlib.Path) -> str | None:
    """Describes what is wrong with a file's content, in words that follow its name.

    Args:
      name: name of the data set.
      path: a file in place of one of its originals.

    Returns:
      None if nothing is wrong: the file unpacks, and for a data set in MNIST's format the shape and
      the counts of labels are right.
    """
    try:
        if not is_known(name):
            _unpack(path)
            return None
        counts = _LABELS[name]["train" if path.name.startswith("train") else "t10k"]
        total = sum(counts)
        images = "images" in path.name
        header = (2051, total, _SIDE, _SIDE) if images else (2049, total)
        size = 4 * len(header) + total * (_SIDE**2 if images else 1)
        with gzip.open(path) as file:
            content = file.read(size)
            longer = bool(file.read(1))  # this also verifies the checksum at the end
    except _UNPACKING as error:
        return f"is damaged (it cannot be unpacked: {str(error) or type(error).__name__})"
    found = struct.unpack_from(f">{len(header)}I", content.ljust(4 * len(header), b"\0"))
    if found != header:
        return f"is a different file (it begins with {list(found)} instead of {list(header)})"
    if longer or len(content) < size:
        return f"is damaged (it holds {'more' if longer else 'less'} than {size} bytes)"
    if not images:
        labels = np.frombuffer(content, np.uint8, offset=4 * len(header))
        if (by_class := np.bincount(labels).tolist()) != counts:
            return f"is a different file (labels by class: {by_class[:12]} instead of {counts})"
    return None


def diagnose(name: str, path: pathlib.Path) -> str:
    """An error message about a file that is not the original, with what to do about it."""
    if reason := fault(name, path):
        return f"{path} {reason}; replace it with the original"
    if is_known(name):
        return (
            f"{path} is not the original, but has its shape and its label counts by class: it was "
            f"probably recompressed. Set {ACCEPT}=1 to accept such files"
        )
    return (
        f"{path} unpacks without error but is not the original: it is a different file, or was "
        "recompressed; replace it with the original"
    )


def _unpack(path: pathlib.Path) -> None:
    """Reads a compressed file to its end; raises one of _UNPACKING if it is damaged."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise ValueError(f"{bad} in it is damaged")
    elif path.suffix in (".gz", ".tgz"):
        with gzip.open(path) as file:
            while file.read(2**20):
                pass
