"""Streams an archive of SVHN's full numbers: images and their labels.

An archive ``train.tar.gz`` holds images ``train/1.png``, ``train/2.png``, ... and, anywhere among
them, ``train/digitStruct.mat``: a MATLAB v7.3 file, which is HDF5. There ``digitStruct/name`` and
``digitStruct/bbox`` are columns of references, row i for the image ``i+1.png``; a group of boxes
has ``label``, ``left``, ``top``, ``width`` and ``height``, each a number if there is one digit,
otherwise a column of references to numbers. The label 10 is the digit 0.

Memory does not grow with the archive, except for one byte per image: it is streamed twice, once for
the labels, which go to a temporary file, and once for the images.
"""

import contextlib
import gzip
import io
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

LABELS = "digitStruct.mat"
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError)


class ArchiveError(RuntimeError):
    """An archive cannot be read, or has a fault that is not accepted."""


class Fault(NamedTuple):
    """A fault in one file of an archive, or in the archive itself."""

    file: str  # "train.tar.gz: 17.png"
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class Entry(NamedTuple):
    """An image and its labels."""

    name: str  # the file's name, "1.png"
    png: bytes
    size: tuple[int, int]  # width and height
    digits: list[int]  # from left to right, 0 to 9
    # int32 [digits, 4]: left, top, right, bottom in pixels, as published; some extend beyond the
    # image's edge by a few pixels
    boxes: np.ndarray


def read(path: Path, on_fault: Callable[[Fault], None]) -> Iterator[Entry]:
    """Reads an archive from beginning to end.

    Faults are reported to ``on_fault``, by file: an image that is not a readable PNG, has no labels
    or invalid ones, or a box that does not overlap it; an archive that is truncated or damaged;
    and, at the end, images that have labels but are missing. Reading continues where possible,
    unless ``on_fault`` raises.

    Args:
      path: the ``.tar.gz``.
      on_fault: called with each :class:`Fault`.

    Yields:
      The valid images, in the archive's order.

    Raises:
      ArchiveError: the file does not exist, or has no readable labels.
    """
    with tempfile.TemporaryFile(prefix="digitStruct-") as file:
        _extract_labels(path, file)
        with _Labels(file, path) as labels:
            missing = bytearray(b"\1") * len(labels)
            try:
                for name, png in _images(path):
                    try:
                        row = labels.row_of(name)
                        if not missing[row]:
                            raise ValueError("it occurs twice in the archive")
                        missing[row] = 0
                        entry = Entry(name, png, *_checked(png, *labels[row]))
                    except ValueError as error:
                        on_fault(Fault(f"{path.name}: {name}", str(error)))
                    else:
                        yield entry
            except _DAMAGED as error:
                on_fault(Fault(path.name, f"it is damaged or truncated, {_words(error)}"))
            for row in np.flatnonzero(np.frombuffer(missing, np.uint8)):
                on_fault(Fault(f"{path.name}: {row + 1}.png", "it has labels, but is missing"))


def _images(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields an archive's PNG files: their names, without folders, and contents."""
    # gzip's reader detects a truncated file; tarfile's takes it for the end.
    with gzip.open(path) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
        for name, file in _files(tar):
            if name.endswith(".png"):
                yield name, file.read()
        while unzipped.read(1 << 16):  # up to the checksum after the last file
            pass


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields the files of a streamed tar: their names, without folders, and contents."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep all of them in memory
        if (file := tar.extractfile(member)) is not None:
            yield PurePosixPath(member.name).name, file


def _extract_labels(path: Path, file: Any) -> None:
    try:
        with gzip.open(path) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
            for name, source in _files(tar):
                if name == LABELS:
                    shutil.copyfileobj(source, file)
                    return
    except _DAMAGED as error:
        raise ArchiveError(
            f"{path} is damaged or truncated before its {LABELS}, {_words(error)}: download it "
            "again"
        ) from error
    raise ArchiveError(f"{path} has no {LABELS}; expected an archive of SVHN's full numbers")


class _Labels(contextlib.AbstractContextManager):
    """The labels, read a row at a time."""

    def __init__(self, file: Any, path: Path):
        import h5py

        try:
            self._file = h5py.File(file, "r")
            self._names = self._file["digitStruct/name"]
            self._boxes = self._file["digitStruct/bbox"]
            if len(self._names) != len(self._boxes):
                raise ValueError(f"{len(self._names)} names and {len(self._boxes)} groups of boxes")
        except (OSError, KeyError, ValueError) as error:
            raise ArchiveError(f"{path}: {LABELS} cannot be read, {_words(error)}") from error

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._names)

    def row_of(self, name: str) -> int:
        """The row of an image. Raises ValueError if it has none."""
        stem = name.removesuffix(".png")
        row = int(stem) - 1 if stem.isascii() and stem.isdigit() else -1
        if not 0 <= row < len(self) or (found := self._name(row)) is None:
            raise ValueError(f"{LABELS} has no labels for it")
        if found != name:
            raise ValueError(f"{LABELS} has {found!r} in its row")
        return row

    def _name(self, row: int) -> str | None:
        try:
            return "".join(map(chr, self._file[self._names[row, 0]][()].ravel()))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
            return None

    def __getitem__(self, row: int) -> tuple[list[int], np.ndarray]:
        """The stored digits and boxes. Raises ValueError if they cannot be read."""
        try:
            group = self._file[self._boxes[row, 0]]
            label, left, top, width, height = (
                self._column(group[name]) for name in ("label", "left", "top", "width", "height")
            )
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"its labels cannot be read, {_words(error)}") from error
        if len({len(each) for each in (label, left, top, width, height)}) > 1 or not len(label):
            raise ValueError("the numbers of its labels and boxes differ, or are 0")
        boxes = np.stack([left, top, left + width, top + height], -1)
        whole = np.round(boxes)
        if not np.array_equal(boxes, whole) or not np.array_equal(label, np.round(label)):
            raise ValueError(f"its labels are not whole numbers: {label}, {boxes.tolist()}")
        return [int(each) for each in label], whole.astype(np.int32)

    def _column(self, dataset: Any) -> np.ndarray:
        import h5py

        if h5py.check_ref_dtype(dataset.dtype) is None:
            return np.asarray(dataset[()], np.float64).ravel()
        return np.array([self._file[each][()].item() for each in dataset[:, 0]], np.float64)


def _checked(
    png: bytes, labels: list[int], boxes: np.ndarray
) -> tuple[tuple[int, int], list[int], np.ndarray]:
    """Size, digits and boxes of an image. Raises ValueError if they are inconsistent."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.load()
            size, mode = image.size, image.mode
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"it is not a readable PNG, {_words(error)}") from error
    if mode != "RGB":
        raise ValueError(f"it has pixels of mode {mode}; expected RGB")
    if wrong := [each for each in labels if not 1 <= each <= 10]:
        raise ValueError(f"it has the label {wrong[0]}; expected 1 to 10")
    left, top, right, bottom = boxes.T
    width, height = size
    inside = (right > np.maximum(left, 0)) & (bottom > np.maximum(top, 0))
    inside &= (left < width) & (top < height)
    if not inside.all():
        box = boxes[~inside][0].tolist()
        raise ValueError(f"its box {box} is empty or outside the image of {width}x{height}")
    return size, [each % 10 for each in labels], boxes


def _words(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
