"""The cache of decoded data sets, stored as files that can be memory-mapped.

A data set is a folder ``<name>/<version>`` in the cache folder, with five files::

    train_images.npy  uint8 [N, H, W, C]        train_labels.npy  int32 [N] or [N, positions]
    test_images.npy   uint8 [M, H, W, C]        test_labels.npy   int32 [M] or [M, positions]
    meta.json         shapes, types and sizes of the others; the training images' mean and deviation

The arrays are plain ``.npy`` files. ``meta.json`` holds each file's size and the checksum of its
header, so that damaged files are detected without reading the data.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from stn_jax.data.image_sets import DataError, Source, Split
from stn_jax.data.moments import Moments, stored_statistics
from stn_jax.files import make_folder, rename, sync_folder

__all__ = ["FORMAT", "DataError", "Source", "Split", "find", "read", "write"]

FORMAT = 1
_META = "meta.json"
_SPLITS = ("train", "test")
# Little-endian on all machines, so that a cache can be copied between them.
_DTYPES: dict[str, np.dtype] = {"images": np.dtype("u1"), "labels": np.dtype("<i4")}


def find(home: pathlib.Path) -> pathlib.Path | None:
    """The folder of the newest version in a data set's folder; None if there is none."""
    try:
        versions = [p for p in home.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot read the cache {home}: {error.strerror}") from error
    return max(versions, key=lambda p: tuple(map(int, p.name.split("."))), default=None)


def read(folder: pathlib.Path, name: str) -> Source:
    """Memory-maps a data set written by :func:`write`.

    Checks the files' sizes and headers, and the labels, but does not read the images.

    Args:
      folder: the folder of one version.
      name: the expected data set.

    Returns:
      The data set; its arrays are memory-mapped read-only.

    Raises:
      DataError: a file is missing, unreadable or damaged, or belongs to a different data set or to
        a different version of this format.
    """
    meta = _read_meta(folder, name)
    try:
        num_classes = _count(meta["num_classes"])
        arrays = {
            split: Split(
                *(_map(folder, f"{split}_{kind}", kind, meta["arrays"]) for kind in _DTYPES)
            )
            for split in _SPLITS
        }
        agree = (
            len({split.images.shape[1:] for split in arrays.values()}) == 1
            and all(len(split.images) == len(split.labels) for split in arrays.values())
            and all(split.images.ndim == 4 for split in arrays.values())
            and len({split.labels.shape[1:] for split in arrays.values()}) == 1
            and all(split.labels.ndim in (1, 2) for split in arrays.values())
        )
        statistics = stored_statistics(meta, arrays["train"].images.shape[-1])
        names = _texts(meta.get("class_names"), num_classes)
        notes = _texts(meta.get("notes")) or ()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(folder / _META, f"invalid content: {error!r}") from error
    if not agree:
        raise _damaged(folder / _META, "the shapes do not match")
    for split_name, split in arrays.items():
        if split.labels.min() < 0 or split.labels.max() >= num_classes:
            raise _damaged(folder / f"{split_name}_labels.npy", "labels out of range")
    train, test = (arrays[split] for split in _SPLITS)
    return Source(
        name, folder.name, num_classes, train, test, statistics, class_names=names, notes=notes
    )


def write(
    home: pathlib.Path,
    name: str,
    version: str,
    num_classes: int,
    splits: Mapping[str, tuple[int, Iterable[tuple[np.ndarray, np.ndarray]]]],
    *,
    origin: str = "",
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> pathlib.Path:
    """Writes a data set batch by batch, for :func:`read`.

    The data set is written to a hidden folder, which is renamed once it is complete and deleted if
    an exception occurs. If another process has completed the same data set in the meantime, that
    one is kept.

    Args:
      home: the data set's folder, ``<cache>/<name>``; created if it does not exist.
      name: the data set.
      version: its version, three numbers separated by dots; the name of the folder.
      num_classes: number of classes.
      splits: for "train" and "test", the number of examples, and batches of images (uint8
        ``[n, H, W, C]``) and labels (integers ``[n]`` or ``[n, positions]``).
      origin: the origin of the data, for the reader of ``meta.json``.
      class_names, notes: see :class:`Source`.

    Returns:
      The folder, ``<home>/<version>``.

    Raises:
      DataError: a split is empty or has the wrong number of examples, images differ in size, labels
        are out of range, or the files cannot be written.
    """
    folder = home / version
    try:
        make_folder(home)
        with _temporary_folder(home) as unfinished:
            arrays: dict[str, Any] = {}
            moments = Moments()
            for split in _SPLITS:
                count, batches = splits[split]
                shape = tuple(arrays["train_images"]["shape"][1:]) if arrays else None
                batches = _checked(batches, f"{name}, {split} split", count, num_classes, shape)
                if split == "train":
                    batches = moments.of(batches)
                arrays |= _write_split(unfinished, split, count, batches)
            meta = {"format": FORMAT, "name": name, "version": version, "origin": origin}
            meta |= {"num_classes": num_classes, "statistics": moments.result(), "arrays": arrays}
            if class_names is not None:
                meta["class_names"] = list(class_names)
            if notes:
                meta["notes"] = list(notes)
            with _durable(unfinished / _META) as file:
                file.write(json.dumps(meta, indent=2).encode() + b"\n")
            try:
                sync_folder(unfinished)
                rename(unfinished, folder)
            except OSError:
                if not (folder / _META).exists():
                    raise
    except OSError as error:
        raise DataError(
            f"cannot write {name} to the cache {home}: {error.strerror or error}; free some space, "
            "or choose another cache_dir (or STN_JAX_CACHE)"
        ) from error
    return folder


def _read_meta(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Reads meta.json and checks its format, name and version."""
    path = folder / _META
    try:
        meta = json.loads(path.read_bytes())
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(meta, dict) or "format" not in meta:
        raise _damaged(path, "it does not describe a data set")
    if meta["format"] != FORMAT:
        raise DataError(
            f"{path} has format {meta['format']!r}, but this version of stn_jax reads format"
            f" {FORMAT}: delete the folder {folder}, and the data set will be prepared again"
        )
    if (meta.get("name"), meta.get("version")) != (name, folder.name):
        found = f"{meta.get('name')!r} version {meta.get('version')!r}"
        raise _damaged(path, f"it describes {found}")
    return meta


def _map(folder: pathlib.Path, stem: str, kind: str, arrays: dict[str, Any]) -> np.ndarray:
    """Memory-maps one array after comparing its file's size and header with meta.json."""
    path, dtype, entry = folder / f"{stem}.npy", _DTYPES[kind], arrays[stem]
    shape = tuple(map(_count, entry["shape"]))
    # The data is at the end of the file, so a damaged header is never parsed.
    size, offset = _count(entry["size"]), entry["size"] - math.prod(shape) * dtype.itemsize
    if entry["dtype"] != dtype.name or not 0 < offset < 4096:
        raise ValueError(f"{stem} cannot be {entry['dtype']} {list(shape)} in {size} bytes")
    try:
        with path.open("rb") as file:
            actual = file.seek(0, os.SEEK_END)
            if actual != size:
                raise _damaged(path, f"it has {actual} bytes instead of {size}")
            file.seek(0)
            header = file.read(offset)
            if zlib.crc32(header) != entry["header_crc32"] or repr(shape).encode() not in header:
                raise _damaged(path, f"its header is not that of {dtype.name} {list(shape)}")
            return np.memmap(file, dtype, "r", offset, shape)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _count(value: Any) -> int:
    """Returns a positive int; raises ValueError for anything else."""
    if type(value) is not int or value < 1:
        raise ValueError(f"found {value!r}; expected a positive integer")
    return value


def _texts(value: Any, count: int | None = None) -> tuple[str, ...] | None:
    """Returns a list of texts as a tuple; raises ValueError for anything but that or None."""
    if value is None:
        return None
    texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
    if not texts or count not in (None, len(value)):
        raise ValueError(f"{value!r:.60} should be a list of {count or 'some'} texts")
    return tuple(value)


def _damaged(path: pathlib.Path, why: str) -> DataError:
    return DataError(
        f"{path} in the cache cannot be used ({why}): delete the folder {path.parent}, and the data"
        " set will be prepared again"
    )


def _checked(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    what: str,
    count: int,
    num_classes: int,
    shape: tuple[int, ...] | None,
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yields the batches after checking images and labels, and at the end their number."""
    done = 0
    for images, labels in batches:
        shape = shape or images.shape[1:]
        if images.shape[1:] != shape or images.dtype != _DTYPES["images"]:
            raise DataError(
                f"{what}: found {images.dtype} images of {list(images.shape[1:])}; expected uint8"
                f" images of {list(shape)}"
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            wrong = labels[(labels < 0) | (labels >= num_classes)][0]
            raise DataError(f"{what}: found label {wrong}; expected 0 to {num_classes - 1}")
        done += len(images)
        yield images, labels
    if done != count or not count:
        raise DataError(f"{what}: found {done} examples; expected {count or '1 or more'}")


def _write_split(
    folder: pathlib.Path,
    split: str,
    count: int,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """Writes the two arrays of a split and returns their entries for meta.json."""
    entries: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        files = {k: stack.enter_context(_durable(folder / f"{split}_{k}.npy")) for k in _DTYPES}
        for batch in batches:
            for array, (kind, file) in zip(batch, files.items(), strict=True):
                if f"{split}_{kind}" not in entries:
                    shape = (count, *array.shape[1:])
                    header = _npy_header(shape, _DTYPES[kind])
                    file.write(header)
                    entries[f"{split}_{kind}"] = {
                        "shape": list(shape),
                        "dtype": _DTYPES[kind].name,
                        "size": len(header) + math.prod(shape) * _DTYPES[kind].itemsize,
                        "header_crc32": zlib.crc32(header),
                    }
                # Written, not memory-mapped: a full disk then raises instead of crashing.
                file.write(np.ascontiguousarray(array, _DTYPES[kind]).data)
    return entries


def _npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": description, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@contextlib.contextmanager
def _durable(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a new file for writing, and syncs it to disk before closing it."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _temporary_folder(home: pathlib.Path) -> Iterator[pathlib.Path]:
    """Creates a hidden folder, which is deleted at the end unless it was renamed."""
    # Named before it is created, so that a signal in between cannot leave it behind.
    folder = home / f".unfinished-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        # Several users may share a cache, whatever their umask.
        folder.chmod(home.stat().st_mode & 0o777)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
