"""Makes the sample of MNIST from the four original files.

    python -m tools.embed_sample --manual_dir=DIR [--output=FILE]

``DIR`` holds ``train-images-idx3-ubyte.gz`` and the three other files. The output is reproducible
byte by byte for the same version of zlib.
"""

import argparse
import gzip
import pathlib
import sys
from typing import Any

import numpy as np

from stn_jax.data import embedded
from stn_jax.files import atomic_write

# Split, prefix of the file names, number of digits, indices of those to keep. Two groups of writers
# alternate in the training digits, and differ (mean pixel 0.123 and 0.139). Every 6th digit would
# be by the same group, so the first and the second of six are kept alternately. In the test digits
# one group follows the other.
_SPLITS = (
    ("train", "train", 60_000, np.arange(0, 60_000, 6) + np.arange(10_000) % 2),
    ("test", "t10k", 10_000, np.arange(0, 10_000, 5)),
)


def make(manual_dir: pathlib.Path, output: pathlib.Path) -> None:
    """Writes the sample.

    Args:
      manual_dir: folder with the four original files.
      output: the npz file to write, with uint8 images ``[N, 28, 28, 1]`` and uint8 labels ``[N]``
        of both splits.

    Raises:
      OSError: a file cannot be read or written.
      ValueError: a file is not the original.
    """
    arrays: dict[str, Any] = {}
    for split, prefix, count, kept in _SPLITS:
        images = _read_idx(manual_dir / f"{prefix}-images-idx3-ubyte.gz", (count, 28, 28))
        labels = _read_idx(manual_dir / f"{prefix}-labels-idx1-ubyte.gz", (count,))
        arrays[f"{split}_images"] = images[kept, ..., None]
        arrays[f"{split}_labels"] = labels[kept]
    with atomic_write(output, "wb") as file:
        np.savez_compressed(file, **arrays)


def _read_idx(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads the uint8 array of this shape from an IDX file."""
    content = gzip.decompress(path.read_bytes())
    # Two zero bytes, the type (8: uint8), the number of axes, their lengths in big-endian order.
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    if not content.startswith(header) or len(content) != len(header) + np.prod(shape):
        raise ValueError(f"{path} is not the original file; expected a uint8 array {list(shape)}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.embed_sample", description="Makes the embedded sample of MNIST."
    )
    parser.add_argument("--manual_dir", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=pathlib.Path, default=embedded.PATH, metavar="FILE")
    arguments = parser.parse_args()
    try:
        make(arguments.manual_dir, arguments.output)
    except (OSError, EOFError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
