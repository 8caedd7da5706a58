"""The native CPU kernels: a shared library of C++ that XLA calls through its FFI.

The library is optional. It is looked for beside this file and registered with XLA at the first
call of :func:`available`, never at import; where anything about it does not fit, warps are
computed by plain JAX. ``docs/native.md`` says how it works.

Environment:
  STN_JAX_NATIVE: 0 leaves the library out.
  STN_JAX_NATIVE_LEVEL: the instruction set to use (avx2 or avx512) instead of the widest.
"""

import ctypes
import functools
import os
import pathlib
import struct
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

SAMPLE = "stn_jax_sample"
ADJOINT = "stn_jax_adjoint"
CONVOLVE = "stn_jax_convolve"  # this and the next are called by stn_jax.models.cpu
POOL = "stn_jax_pool"

# In the order of the numbers that the kernels know them by.
MODES = ("nearest", "bilinear", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")

_NAMES = ("libstn_jax.so", "libstn_jax.dylib")
_REASON = "not_built.txt"  # what the build leaves where it fails


class _Library(NamedTuple):
    path: pathlib.Path
    level: str
    ffi_version: tuple[int, int]
    handle: ctypes.CDLL


class _NotAvailableError(Exception):
    """Why the library is left out; expected: whether nothing is wrong with it."""

    def __init__(self, reason: str, *, expected: bool):
        super().__init__(reason)
        self.expected = expected


def available() -> bool:
    """Whether the kernels can be called: loads and registers them the first time.

    Warns once where the library is there and does not work.
    """
    return isinstance(_load(), _Library)


def supports(mode: str, rank: int, dtype: DTypeLike) -> bool:
    """Whether there is a kernel for a mode, a number of spatial axes and an element type."""
    known = mode in MODES and rank in (2, 3) and (mode, rank) != ("bicubic", 3)
    return known and jnp.dtype(dtype) in (jnp.dtype("float32"), jnp.dtype("float64"))


def status() -> str:
    """What computes warps on this machine's CPU, and why; for people to read."""
    library = _load()
    if isinstance(library, str):
        return f"plain JAX: {library}"
    threads = library.handle.stn_jax_threads()
    major, minor = library.ffi_version
    return (
        f"native kernels: {library.path}, instruction set {library.level}, XLA FFI "
        f"{major}.{minor}, {f'{threads} threads' if threads else 'not called yet'}"
    )


@functools.cache
def _load() -> _Library | str:
    """The library, registered with XLA, or why it is left out."""
    try:
        return _register(_open())
    except _NotAvailableError as error:
        if not error.expected:
            _warn(str(error))
        return str(error)
    except Exception as error:
        # Whatever it is, plain JAX gives the same values.
        reason = f"{type(error).__name__}: {error}"
        _warn(reason)
        return reason


def _warn(reason: str) -> None:
    warnings.warn(
        f"the native kernels of stn_jax are left out ({reason}); warps and layers on CPU are "
        "computed by plain JAX, which is slower. STN_JAX_NATIVE=0 silences this",
        RuntimeWarning,
        stacklevel=4,
    )


def _open() -> _Library:
    if os.environ.get("STN_JAX_NATIVE") == "0":
        raise _NotAvailableError("STN_JAX_NATIVE is 0", expected=True)
    paths = [pathlib.Path(__file__).with_name(name) for name in _NAMES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise _NotAvailableError(_why_there_is_none(paths[0].parent), expected=True)
    if _is_truncated(path):
        raise _NotAvailableError(f"{path} is not whole: install it again", expected=False)
    handle = ctypes.CDLL(str(path))
    handle.stn_jax_level.restype = ctypes.c_char_p
    handle.stn_jax_threads.restype = ctypes.c_int64
    level = handle.stn_jax_level().decode()
    if not level:
        forced = os.environ.get("STN_JAX_NATIVE_LEVEL")
        wanted = f"STN_JAX_NATIVE_LEVEL={forced}, which " if forced else "instruction sets that "
        raise _NotAvailableError(
            f"{path} has {wanted}this processor does not support", expected=not forced
        )
    return _Library(path, level, divmod(handle.stn_jax_ffi_version(), 1000), handle)


def _is_truncated(path: pathlib.Path) -> bool:
    """Whether an ELF file ends before its table of sections: to load that may be a bus error."""
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 64 or head[:5] != b"\x7fELF\x02":
        return False  # the loader says what it is
    (table,) = struct.unpack_from("<Q", head, 40)
    size, count = struct.unpack_from("<HH", head, 58)
    return path.stat().st_size < table + size * count


def _why_there_is_none(folder: pathlib.Path) -> str:
    reason = folder / _REASON
    built = f" could not be built ({reason.read_text().strip()})" if reason.exists() else " is not"
    return (
        f"{' or '.join(_NAMES)}{built} in {folder}. Where there is a C++17 compiler, which CXX may "
        "name, installing again builds it: pip install -v --force-reinstall --no-deps "
        "--no-cache-dir and what was installed, or in a checkout pip install -v -e ."
    )


def _register(library: _Library) -> _Library:
    # Against a backend that runs, so that what it refuses is an error here; kept for a backend yet
    # to come, it would be an error there and keep that from starting.
    jax.local_devices(backend="cpu")
    for name in (SAMPLE, ADJOINT, CONVOLVE, POOL):
        handler = jax.ffi.pycapsule(getattr(library.handle, name))
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
        jax.ffi.register_ffi_target_as_batch_partitionable(name)
    return library
