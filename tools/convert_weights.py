"""Converts weights of earlier versions from .npz to .safetensors, bit for bit.

    python -m tools.convert_weights [FOLDER]

FOLDER defaults to the package's own. The .npz files are deleted.
"""

import sys
from pathlib import Path

from stn_jax.pretrained import weights
from stn_jax.pretrained.loader import FOLDER


def convert(path: Path) -> Path:
    """Converts one file and returns the new one.

    Raises:
      PretrainedError: the file is damaged, or the new one cannot be written.
    """
    arrays, metadata = weights.read(path)
    known = {key: value for key, value in metadata.items() if key != "format"}
    new = weights.write(metadata["name"], arrays, known, path.parent)
    again, new_metadata = weights.read(new)
    same = {key: array.tobytes() for key, array in arrays.items()}
    if {key: array.tobytes() for key, array in again.items()} != same:
        raise AssertionError(f"the values in {new} and {path} differ")
    if {**new_metadata, "format": metadata["format"]} != metadata:
        raise AssertionError(f"the metadata in {new} and {path} differs")
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
