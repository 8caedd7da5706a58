"""A file of arrays as a data set, ``npz:FILE``.

The arrays are ``images`` ``[N, H, W, C]`` or ``[N, H, W]``, uint8 or floats from 0 to 1, and
``labels`` ``[N]``, integers or strings; optionally ``test_images`` and ``test_labels``, and
``class_names``, the names of classes 0, 1, ... of integer labels.
"""

import os
import pathlib

import numpy as np

from stn_jax.data.archives import read_npz
from stn_jax.data.image_folder import natural_order
from stn_jax.data.image_sets import DataError, Source, Split
from stn_jax.data.options import DataOptions
from stn_jax.data.splitting import shuffled, split_note, stratified

_ARRAYS = ("images", "labels", "test_images", "test_labels", "class_names")


def source(path: str, options: DataOptions, cache_root: pathlib.Path) -> Source:
    """Loads a data set from an .npz file.

    Args:
      path: the file.
      options: how the data set is split; its images are not converted.
      cache_root: unused, since arrays need no decoding.

    Raises:
      DataError: the file cannot be read, or its arrays are invalid.
    """
    file = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if options.image_size or options.channels:
        raise DataError(
            "image_size and channels apply to image files; the arrays of an npz file are used "
            "unchanged"
        )
    try:
        arrays = read_npz(file)
    except OSError as error:
        raise DataError(f"npz:{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}; write it again with np.savez") from None
    missing = [name for name in _ARRAYS[:2] if name not in arrays]
    if ("test_images" in arrays) != ("test_labels" in arrays):
        missing += [name for name in _ARRAYS[2:4] if name not in arrays]
    if missing:
        raise DataError(
            f"{file} has no array {' and '.join(missing)}; it has {', '.join(arrays) or 'none'}; "
            f"expected {', '.join(_ARRAYS[:2])}, and optionally {', '.join(_ARRAYS[2:])}"
        )
    images, labels, notes = {}, {}, []
    for split, prefix in (("train", ""), ("test", "test_")):
        if f"{prefix}images" in arrays:
            images[split], note = _images(file, f"{prefix}images", arrays[f"{prefix}images"])
            labels[split] = _labels(
                file, f"{prefix}labels", arrays[f"{prefix}labels"], len(images[split])
            )
            notes += note
    names, labels = _classes(file, arrays.get("class_names"), labels)
    if "test" not in images:
        drawn = stratified(
            f"npz:{path}", labels["train"], names, options.test_fraction, options.split_seed
        )
        for whole in (images, labels):
            whole["train"], whole["test"] = whole["train"][~drawn], whole["train"][drawn]
        notes.append(split_note(options.test_fraction, options.split_seed))
    if (found := images["test"].shape[1:]) != (expected := images["train"].shape[1:]):
        raise DataError(f"test_images of {file} have shape {found}, and images {expected}")
    options.check_size(f"npz:{path}", sum(map(len, images.values())), expected)
    splits = {}
    for split in ("train", "test"):
        everything = np.zeros(len(labels[split]), bool)
        order = shuffled(everything, options.split_seed)["train"]
        splits[split] = Split(images[split][order], labels[split][order])
        splits[split].images.flags.writeable = splits[split].labels.flags.writeable = False
    numbers = names == tuple(map(str, range(len(names))))
    return Source(
        f"npz:{path}",
        "1.0.0",
        len(names),
        splits["train"],
        splits["test"],
        class_names=None if numbers else names,
        notes=tuple(dict.fromkeys(notes)),
    )


def _images(file: pathlib.Path, name: str, images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Images as uint8 ``[N, H, W, C]``, and notes on conversions."""
    found = f"{name} of {file} are {images.dtype} {list(images.shape)}"
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not 1 <= images.shape[3] <= 4 or 0 in images.shape:
        raise DataError(f"{found}; expected [N, H, W] or [N, H, W, C] with 1 to 4 channels")
    if images.dtype == np.uint8:
        return images, []
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{found}; expected uint8, or floats from 0 to 1")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise DataError(f"{found} from {low:g} to {high:g}; expected floats from 0 to 1, or uint8")
    rounded = np.round(255 * images.astype(np.float32)).astype(np.uint8)
    return rounded, ["floating-point pixels were rounded to 8 bits"]


def _labels(file: pathlib.Path, name: str, labels: np.ndarray, count: int) -> np.ndarray:
    found = f"{name} of {file} are {labels.dtype} {list(labels.shape)}"
    if labels.shape != (count,):
        raise DataError(f"{found}; expected one label per image, [{count}]")
    if labels.dtype.kind not in "iuU":
        raise DataError(f"{found}; expected integers or strings")
    return labels


def _classes(
    file: pathlib.Path, names: np.ndarray | None, labels: dict[str, np.ndarray]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Names of the classes, and labels as indices of them."""
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U":
            raise DataError(f"class_names of {file} are {names.dtype}; expected strings")
        for split, each in labels.items():
            if each.dtype.kind == "U" or each.min() < 0 or each.max() >= len(names):
                raise DataError(
                    f"{split} labels of {file} run from {each.min()} to {each.max()}; expected "
                    f"numbers from 0 to {len(names) - 1}, one for each of its class_names"
                )
        counted = {split: each.astype(np.int32) for split, each in labels.items()}
        return tuple(map(str, names)), counted
    known = sorted({*labels["train"].tolist()}, key=lambda each: natural_order(str(each)))
    known = sorted(known) if labels["train"].dtype.kind in "iu" else known
    if len(known) < 2:
        raise DataError(f"{file} has images of a single class, {known[0]}; expected two or more")
    numbers = {name: i for i, name in enumerate(known)}
    if unknown := sorted({*labels.get("test", labels["train"]).tolist()} - set(known), key=str):
        raise DataError(
            f"test_labels of {file} hold {unknown[0]!r}, which is not among its labels; expected "
            "the classes of the training images"
        )
    counted = {
        split: np.array([numbers[each] for each in values.tolist()], np.int32)
        for split, values in labels.items()
    }
    return tuple(map(str, known)), counted
