"""Decoded data sets on disk, ready to be memory-mapped: the one place that knows their format.

A data set is a folder ``<name>/<version>`` below the cache's own, with five files::

    train_images.npy  uint8 [N, H, W, C]        train_labels.npy  int32 [N] or [N, positions]
    test_images.npy   uint8 [M, H, W, C]        test_labels.npy   int32 [M] or [M, positions]
    meta.json         what the others must look like; mean and deviation of the training images

The arrays are plain ``.npy`` files, in the order in which they were written. ``meta.json`` says how
long each is and how it begins, so that reading can tell a damaged file from a sound one without
reading the data.
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
# Little-endian whatever the machine, so that a cache can be copied to another one.
_DTYPES: dict[str, np.dtype] = {"images": np.dtype("u1"), "labels": np.dtype("<i4")}


def find(home: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the newest version below a data set's folder, or None."""
    try:
        versions = [p for p in home.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot look into the cache {home}: {error.strerror}") from error
    return max(versions, key=lambda p: tuple(map(int, p.name.split("."))), default=None)


def read(folder: pathlib.Path, name: str) -> Source:
    """Maps a data set that :func:`write` has written.

    Looks at the sizes and beginnings of the files and at the labels, never at the images.

    Args:
      folder: the folder of one version.
      name: the data set that should be in it.

    Returns:
      The data set; its arrays are memory-mapped read-only.

    Raises:
      DataError: a file is missing, cannot be read, is damaged, or belongs to another data set or
        to another version of this format.
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
        raise _damaged(folder / _META, f"wrong content: {error!r}") from error
    if not agree:
        raise _damaged(folder / _META, "the shapes do not fit together")
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
    """Writes a data set, a batch at a time, so that :func:`read` can map it.

    The folder appears under its name only when it is complete; until then it is a hidden folder
    beside it, which any exception removes. Where another process has completed the same folder
    meanwhile, that one stays and ours is dropped.

    Args:
      home: the data set's folder, ``<cache>/<name>``; made where it is missing.
      name: the data set.
      version: its version, three numbers with dots; the name of the folder.
      num_classes: number of classes.
      splits: for "train" and "test" the number of examples, and batches of images (uint8
        ``[n, H, W, C]``) and labels (integers ``[n]`` or ``[n, positions]``) that add up to it.
      origin: what the data was made from, for the reader of ``meta.json``.
      class_names, notes: see :class:`Source`.

    Returns:
      The folder, ``<home>/<version>``.

    Raises:
      DataError: a split is empty, has another number of examples than announced, images of
        another size, or labels out of range; or the files cannot be written.
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
            f"cannot write {name} to the cache {home}: {error.strerror or error}; free the place or"
            " choose another cache_dir (or STN_JAX_CACHE)"
        ) from error
    return folder


def _read_meta(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Returns meta.json, once it is clear that it is ours and describes this data set."""
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
            f"{path} has format {meta['format']!r} and this version of stn_jax reads format"
            f" {FORMAT}: delete the folder {folder} and the data set will be prepared again"
        )
    if (meta.get("name"), meta.get("version")) != (name, folder.name):
        found = f"{meta.get('name')!r} version {meta.get('version')!r}"
        raise _damaged(path, f"it describes {found}")
    return meta


def _map(folder: pathlib.Path, stem: str, kind: str, arrays: dict[str, Any]) -> np.ndarray:
    """Maps one array after comparing its file's size and beginning with meta.json."""
    path, dtype, entry = folder / f"{stem}.npy", _DTYPES[kind], arrays[stem]
    shape = tuple(map(_count, entry["shape"]))
    # The data is the file's end, so that no header from a damaged file has to be parsed.
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
                raise _damaged(path, f"its header is not the one of {dtype.name} {list(shape)}")
            return np.memmap(file, dtype, "r", offset, shape)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _count(value: Any) -> int:
    """Returns a positive int as it is; raises ValueError for anything else."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} should be a positive integer")
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
        f"{path} in the cache cannot be used ({why}): delete the folder {path.parent} and the data"
        " set will be prepared again"
    )


def _checked(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    what: str,
    count: int,
    num_classes: int,
    shape: tuple[int, ...] | None,
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Passes the batches on after checking images and labels, and in the end their number."""
    done = 0
    for images, labels in batches:
        shape = shape or images.shape[1:]
        if images.shape[1:] != shape or images.dtype != _DTYPES["images"]:
            raise DataError(
                f"{what}: found {images.dtype} images of {list(images.shape[1:])}, not uint8 images"
                f" of {list(shape)}"
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            wrong = labels[(labels < 0) | (labels >= num_classes)][0]
            raise DataError(f"{what}: found the label {wrong}, not one of {num_classes} classes")
        done += len(images)
        yield images, labels
    if done != count or not count:
        raise DataError(f"{what}: {done} examples were read and {count or 'some'} expected")


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
                # Written, not mapped: on a full disk this raises, where a map would kill us.
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
    """Opens a new file for writing and sees to it that it is on the disk when closed."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _temporary_folder(home: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a hidden folder that is gone in the end, unless it was renamed."""
    # Named before it is made, so that no signal falls between the making and the try.
    folder = home / f".unfinished-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        # Several people may share a cache, whatever the umask of one of them.
        folder.chmod(home.stat().st_mode & 0o777)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
