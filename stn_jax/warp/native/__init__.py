"""The native CPU kernels: a shared library of C++ that XLA calls through its FFI.

The library is optional. The first call of :func:`available`, never the import, loads it from this
folder and registers it with XLA. If that fails for any reason, warps are computed by plain JAX.
``docs/native.md`` describes how it works.

Environment:
  STN_JAX_NATIVE: 0 disables the library.
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

# In the order of the enums in problem.h.
MODES = ("nearest", "bilinear", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")

_NAMES = ("libstn_jax.so", "libstn_jax.dylib")
_REASON = "not_built.txt"  # written by a build that failed


class _Library(NamedTuple):
    path: pathlib.Path
    level: str
    ffi_version: tuple[int, int]
    handle: ctypes.CDLL


class _NotAvailableError(Exception):
    """The reason why the library is not used; no warning if it is expected."""

    def __init__(self, reason: str, *, expected: bool):
        super().__init__(reason)
        self.expected = expected


def available() -> bool:
    """Whether the kernels can be called. The first call loads and registers them.

    Warns once if the library exists but does not work.
    """
    return isinstance(_load(), _Library)


def supports(mode: str, num_spatial_dims: int, dtype: DTypeLike) -> bool:
    """Whether there is a kernel for a mode, number of spatial dimensions and element type."""
    known = (
        mode in MODES and num_spatial_dims in (2, 3) and (mode, num_spatial_dims) != ("bicubic", 3)
    )
    return known and jnp.dtype(dtype) in (jnp.dtype("float32"), jnp.dtype("float64"))


def status() -> str:
    """A description of what computes warps on this machine's CPU, and why."""
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
    """The library, registered with XLA, or the reason why it is not used."""
    try:
        return _register(_open())
    except _NotAvailableError as error:
        if not error.expected:
            _warn(str(error))
        return str(error)
    except Exception as error:
        # Whatever the reason, plain JAX computes the same values.
        reason = f"{type(error).__name__}: {error}"
        _warn(reason)
        return reason


def _warn(reason: str) -> None:
    warnings.warn(
        f"the native kernels of stn_jax are not used ({reason}); warps and layers on CPU are "
        "computed by plain JAX, which is slower. STN_JAX_NATIVE=0 silences this warning",
        RuntimeWarning,
        stacklevel=4,
    )


def _open() -> _Library:
    if os.environ.get("STN_JAX_NATIVE") == "0":
        raise _NotAvailableError("STN_JAX_NATIVE is 0", expected=True)
    paths = [pathlib.Path(__file__).with_name(name) for name in _NAMES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise _NotAvailableError(_why_missing(paths[0].parent), expected=True)
    if _is_truncated(path):
        raise _NotAvailableError(f"{path} is truncated: reinstall the package", expected=False)
    handle = ctypes.CDLL(str(path))
    handle.stn_jax_level.restype = ctypes.c_char_p
    handle.stn_jax_threads.restype = ctypes.c_int64
    level = handle.stn_jax_level().decode()
    if not level:
        forced = os.environ.get("STN_JAX_NATIVE_LEVEL")
        raise _NotAvailableError(
            f"STN_JAX_NATIVE_LEVEL is {forced}, which this processor or {path} does not support"
            if forced
            else f"this processor supports none of the instruction sets of {path}",
            expected=not forced,
        )
    return _Library(path, level, divmod(handle.stn_jax_ffi_version(), 1000), handle)


def _is_truncated(path: pathlib.Path) -> bool:
    """Whether an ELF file ends before its section table; loading it could crash the process."""
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 64 or head[:5] != b"\x7fELF\x02":
        return False  # the loader reports what is wrong
    (table,) = struct.unpack_from("<Q", head, 40)
    size, count = struct.unpack_from("<HH", head, 58)
    return path.stat().st_size < table + size * count


def _why_missing(folder: pathlib.Path) -> str:
    reason = folder / _REASON
    built = f" could not be built ({reason.read_text().strip()})" if reason.exists() else " is not"
    return (
        f"{' or '.join(_NAMES)}{built} in {folder}. With a C++17 compiler (CXX names it), "
        "reinstalling builds it: in a checkout, pip install -v -e . ; otherwise, pip install -v "
        "--force-reinstall --no-deps --no-cache-dir with the same argument as before"
    )


def _register(library: _Library) -> _Library:
    # The backend must be running. Otherwise registration would be deferred, and an error would keep
    # the backend from starting.
    jax.local_devices(backend="cpu")
    for name in (SAMPLE, ADJOINT, CONVOLVE, POOL):
        handler = jax.ffi.pycapsule(getattr(library.handle, name))
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
        jax.ffi.register_ffi_target_as_batch_partitionable(name)
    return library
