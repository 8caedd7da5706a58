"""Rewrites weights that an earlier version stored as .npz files as .safetensors, bit for bit.

    python -m tools.convert_weights [FOLDER]

FOLDER is that of the package where none is given. The .npz files are deleted.
"""

import sys
from pathlib import Path

from stn_jax.pretrained import weights
from stn_jax.pretrained.loader import FOLDER


def convert(path: Path) -> Path:
    """Rewrites one file and returns the new one.

    Raises:
      PretrainedError: it is damaged, or the new one cannot be written.
    """
    arrays, metadata = weights.read(path)
    known = {key: value for key, value in metadata.items() if key != "format"}
    new = weights.write(metadata["name"], arrays, known, path.parent)
    again, said = weights.read(new)
    same = {key: array.tobytes() for key, array in arrays.items()}
    if {key: array.tobytes() for key, array in again.items()} != same:
        raise AssertionError(f"{new} holds other values than {path}")
    if {**said, "format": metadata["format"]} != metadata:
        raise AssertionError(f"{new} holds other metadata than {path}")
    path.unlink()
    return new


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for path in sorted(folder.glob("*__*.npz")):
        before = path.stat().st_size
        new = convert(path)
        print(f"{path.name}, {before:,} bytes: {new.name}, {new.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
