"""Reading .npz files that may be damaged."""

import os
import struct
import tokenize
import zipfile
import zlib

import numpy as np

# Exceptions that NumPy and zipfile raise for damaged files. A flipped bit can mark a zip file as
# encrypted (RuntimeError) or as compressed by an unknown method (NotImplementedError), and an
# array's header is parsed as Python.
_DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz file; never unpickles.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is damaged, or holds Python objects.
    """
    try:
        # Opened here, since np.load leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as npz:
            arrays = {key: npz[key] for key in npz.files}
    except _DAMAGE as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(first) from error
    # NumPy returns the bytes of members without an array's header.
    if strange := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{strange[0]} is not an array")
    return arrays
