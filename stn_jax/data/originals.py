"""Files in the place of a data set's originals: damaged, other ones, or compressed anew."""

import gzip
import os
import pathlib
import struct
import zipfile
import zlib

import numpy as np

# Set to 1, it has files taken that hold what they should and are not the originals byte for byte.
ACCEPT = "STN_JAX_ACCEPT_RECOMPRESSED"

# Of the data sets in MNIST's format: how many images of each class train and test.
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
    """Whether the user takes files whose content is right, whatever compressed them."""
    return os.environ.get(ACCEPT, "").lower() in ("1", "true", "yes")


def is_known(name: str) -> bool:
    """Whether it is known what a data set's files hold."""
    return name in _LABELS


def fault(name: str, path: pathlib.Path) -> str | None:
    """What is wrong with what a file holds, in words that follow its name.

    Args:
      name: of the data set.
      path: a file in the place of one of its originals.

    Returns:
      None where nothing is found: the file unpacks, and of a data set in MNIST's format the shape
      and the counts of labels are right.
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
            longer = bool(file.read(1))  # and the check at the file's end
    except _UNPACKING as error:
        return f"is damaged (it cannot be unpacked: {str(error) or type(error).__name__})"
    found = struct.unpack_from(f">{len(header)}I", content.ljust(4 * len(header), b"\0"))
    if found != header:
        return f"is another file (it begins {list(found)} instead of {list(header)})"
    if longer or len(content) < size:
        return f"is damaged (it holds {'more' if longer else 'less'} than {size} bytes)"
    if not images:
        labels = np.frombuffer(content, np.uint8, offset=4 * len(header))
        if (by_class := np.bincount(labels).tolist()) != counts:
            return f"is another file (labels by class: {by_class[:12]} instead of {counts})"
    return None


def said_of(name: str, path: pathlib.Path) -> str:
    """What a file is that is not the original, and what can be done about it."""
    if why := fault(name, path):
        return f"{path} {why}; put the original in its place"
    if is_known(name):
        return (
            f"{path} is neither damaged nor the original: what it holds has the original's shape "
            "and, of labels, its counts by class, so that it was most likely compressed anew. To "
            f"take such files, set {ACCEPT}=1"
        )
    return (
        f"{path} unpacks without error and is not the original: it is another file, or was "
        "compressed anew; put the original in its place"
    )


def _unpack(path: pathlib.Path) -> None:
    """Reads a compressed file to its end; raises one of _UNPACKING where it is damaged."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise ValueError(f"{bad} in it is damaged")
    elif path.suffix in (".gz", ".tgz"):
        with gzip.open(path) as file:
            while file.read(2**20):
                pass
