"""A folder of images as a data set, ``folder:PATH``: one subfolder per class.

The subfolders are those of PATH, or of the folders ``train`` and ``test`` (or ``val``) in it. The
decoded arrays are cached; the key is made of the files' names, sizes and times.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stn_jax.data import cache
from stn_jax.data.image_sets import DataError, Source
from stn_jax.data.options import DataOptions
from stn_jax.data.pictures import SUFFIXES, Survey, fitted, kind_of, open_image
from stn_jax.data.splitting import shuffled, split_note, stratified
from stn_jax.progress import Progress

_VERSION = "1.0.0"
_TEST_FOLDERS = ("test", "val", "valid", "validation")
_LISTED = 20  # unreadable files named in a message


class Listing(NamedTuple):
    """The image files of a folder.

    Attributes:
      classes: names of the classes, in natural order.
      files: the files, in natural order within each class.
      labels: class of each file.
      test: whether each file belongs to the test split; None if the folder has no such split.
      ignored: number of other files.
    """

    classes: tuple[str, ...]
    files: list[pathlib.Path]
    labels: np.ndarray
    test: np.ndarray | None
    ignored: int


def source(path: str, options: DataOptions, cache_root: pathlib.Path) -> Source:
    """Loads a folder of images, from the cache if none of its files has changed.

    Args:
      path: the folder.
      options: how images are resized, converted and split.
      cache_root: the cache's folder.

    Raises:
      DataError: the folder does not exist or has another layout, files cannot be read, or the
        images need too much memory.
    """
    folder = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if not path or not folder.is_dir():
        raise DataError(
            f"dataset is folder:{path}, but {path or 'the path'} is not a folder; expected one "
            "with a subfolder of images per class"
        )
    listing = find_files(folder)
    name = f"folder:{folder}{options.key}"
    place = cache_root / "folders" / _digest(name.encode(errors="surrogateescape"))
    home = place / _digest(*_fingerprint(folder, listing))
    if not cache.find(home):
        _decode(home, name, folder, listing, options)
        for old in place.iterdir():  # arrays of earlier versions of the files
            if old != home:
                shutil.rmtree(old, ignore_errors=True)
    found = cache.read(home / _VERSION, name)
    options.check_size(f"folder:{path}", len(listing.files), found.train.images.shape[1:])
    return found


def find_files(folder: pathlib.Path) -> Listing:
    """Lists a folder's images.

    Raises:
      DataError: there are no subfolders with images, fewer than two classes, or classes without
        training images.
    """
    roots = _split_folders(folder) or [folder]
    by_root = [{name: _images(each) for name, each in _folders(root).items()} for root in roots]
    ignored = sum(left for classes in by_root for _, left in classes.values())
    found = [{name: files for name, (files, _) in each.items() if files} for each in by_root]
    classes = tuple(sorted(found[0], key=natural_order))
    if not classes:
        loose = sum(each.suffix.lower() in SUFFIXES for each in roots[0].iterdir())
        raise DataError(
            f"{roots[0]} has no subfolders with images ({loose} images in the folder itself); "
            "expected one per class, or folders train and test that have them"
        )
    if len(classes) < 2:
        raise DataError(
            f"{roots[0]} has images of a single class, {classes[0]}; expected subfolders of two "
            "or more classes"
        )
    if untrained := sorted({name for each in found for name in each} - set(classes)):
        raise DataError(
            f"{roots[-1]} has classes without training images: {', '.join(untrained)}; expected "
            f"the subfolders of {roots[0]}"
        )
    files, labels, tests = [], [], []
    for is_test, each in enumerate(found):
        for label, name in enumerate(classes):
            for file in each.get(name, ()):
                files.append(file)
                labels.append(label)
                tests.append(bool(is_test))
    if len(roots) > 1 and not any(tests):
        raise DataError(f"{roots[-1]} has no images; expected the subfolders of {roots[0]}")
    test_mask = np.array(tests) if len(roots) > 1 else None
    return Listing(classes, files, np.array(labels, np.int32), test_mask, ignored)


def _split_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the training split and, if any, the test split; empty without splits."""
    inside = _folders(folder)
    # If it holds images directly, "train" may be a class (the vehicle).
    if "train" not in inside or not _folders(inside["train"]):
        return []
    tests = [inside[name] for name in _TEST_FOLDERS if name in inside]
    return [inside["train"], *tests[:1]]


def natural_order(name: str) -> tuple[Any, ...]:
    """A key for natural sorting: "2" before "10"."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple((1, int(p), "") if p.isdecimal() else (2, 0, p) for p in parts), name


def _folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    try:
        return {p.name: p for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._"}
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from None


def _images(folder: pathlib.Path) -> tuple[list[pathlib.Path], int]:
    """The images anywhere in a folder, in natural order, and the number of other files."""
    files, ignored = [], 0
    for root, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if each[0] not in "._"]
        for name in names:
            path = pathlib.Path(root, name)
            if name[0] == "." or path.suffix.lower() not in SUFFIXES:
                ignored += name[0] != "."
            else:
                files.append(path)
    return sorted(files, key=lambda each: natural_order(str(each))), ignored


def _fingerprint(folder: pathlib.Path, listing: Listing) -> list[bytes]:
    """Name, size and time of each file."""
    lines = []
    for file in listing.files:
        try:
            found = file.stat()
        except OSError:  # a broken link; reading it reports the error
            lines.append(os.fsencode(file))
            continue
        text = f" {found.st_size} {found.st_mtime_ns}"
        lines.append(os.fsencode(file.relative_to(folder)) + text.encode())
    return lines


def _digest(*lines: bytes) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:24]


def _decode(
    home: pathlib.Path,
    name: str,
    folder: pathlib.Path,
    listing: Listing,
    options: DataOptions,
) -> None:
    """Reads all files and writes them to the cache."""
    faults: dict[pathlib.Path, str] = {}
    with warnings.catch_warnings():
        # Pillow warns about unusual files; unreadable ones raise exceptions.
        warnings.simplefilter("ignore")
        survey = Survey()
        for file in listing.files:
            try:
                with open_image(file) as image:
                    survey.add(kind_of(image))
            except DataError as error:
                faults[file] = str(error)
        good = [file for file in listing.files if file not in faults]
        _report(folder, faults, options, any_left=bool(good))
        shape, notes = survey.shape(options)
        options.check_size(f"folder:{folder}", len(good), shape)
        images = _read(good, shape, faults)
    _report(folder, faults, options, any_left=len(faults) < len(listing.files))
    keep = np.array([file not in faults for file in listing.files])
    images = images[[file not in faults for file in good]]
    labels = listing.labels[keep]
    if listing.test is None:
        test = stratified(
            str(folder), labels, listing.classes, options.test_fraction, options.split_seed
        )
        notes += (split_note(options.test_fraction, options.split_seed),)
    else:
        test = listing.test[keep]
    if listing.ignored:
        notes += (f"{listing.ignored} files that are not images were ignored",)
    if faults:
        notes += (f"{len(faults)} unreadable files were skipped: {_listed(folder, faults)}",)
    splits = {
        split: (len(chosen), [(images[chosen], labels[chosen])])
        for split, chosen in shuffled(test, options.split_seed).items()
    }
    cache.write(
        home,
        name,
        _VERSION,
        len(listing.classes),
        splits,
        origin=str(folder),
        class_names=listing.classes,
        notes=notes,
    )


def _read(
    files: Sequence[pathlib.Path], shape: tuple[int, int, int], faults: dict[pathlib.Path, str]
) -> np.ndarray:
    """Decodes files ``[N, H, W, C]``; adds those that cannot be decoded to the faults."""
    images = np.zeros((len(files), *shape), np.uint8)

    def read(i: int) -> None:
        try:
            with open_image(files[i]) as image:
                images[i] = fitted(image, shape)
        except DataError as error:
            faults[files[i]] = str(error)

    # Pillow releases the GIL while it decodes.
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        Progress("decoding", len(files), "images") as progress,
    ):
        for _ in pool.map(read, range(len(files))):
            progress.advance(1)
    return images


def _report(
    folder: pathlib.Path,
    faults: dict[pathlib.Path, str],
    options: DataOptions,
    any_left: bool,
) -> None:
    """Raises DataError if files cannot be read, unless the options allow skipping them."""
    if faults and not (options.skip_unreadable and any_left):
        raise DataError(
            f"{len(faults)} files of {folder} cannot be read: {_listed(folder, faults)}; replace "
            "them, or skip them with skip_unreadable=True"
        )


def _listed(folder: pathlib.Path, faults: dict[pathlib.Path, str]) -> str:
    names = [
        reason.replace(str(file), str(file.relative_to(folder))).partition(";")[0]
        for file, reason in sorted(faults.items())
    ]
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
