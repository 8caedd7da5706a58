"""Finds, checks and prepares TFDS's builders."""

import contextlib
import dataclasses
import difflib
import importlib.util
import os
import pathlib
import re
import sys
import tempfile
from typing import Any
from urllib.error import URLError

import numpy as np

from stn_jax.data import originals
from stn_jax.data.image_sets import DataError
from stn_jax.files import can_be_written

HOUSE_NUMBERS = "svhn_numbers"


def find_builder(name: str, data_dir: pathlib.Path | None) -> Any:
    """Returns the builder of a data set that TFDS knows, or that is prepared in data_dir."""
    import tensorflow_datasets as tfds

    dataset, _, config = name.partition("/")
    if dataset == HOUSE_NUMBERS:  # the import registers it
        from stn_jax.data.svhn_numbers import svhn_numbers_dataset_builder  # noqa: F401
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = " or ".join(difflib.get_close_matches(dataset, known))
        hint = f"; did you mean {close}?" if close else ", nor any similar name"
        raise DataError(f"TFDS does not know the data set {dataset}{hint}") from error
    except Exception as error:
        if config and dataset in tfds.list_builders(with_community_datasets=False):
            configs = list(tfds.builder_cls(dataset).builder_configs)
            if config not in configs:
                some = first_few(configs) or "none"
                message = f"{dataset} has no configuration {config}; it has {some}"
                raise DataError(message) from error
        raise DataError(f"TFDS cannot load {name}: {first_line(error)}") from error


def example_names(name: str, info: Any) -> tuple[str, str]:
    """Returns the names of the image and the label among the features."""
    import tensorflow_datasets as tfds

    features, keys = info.features, info.supervised_keys
    if not isinstance(features, tfds.features.FeaturesDict):
        features = {}
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    # Without matching supervised keys, the only image and the only label are used.
    found = [[key for key, f in features.items() if isinstance(f, kind)] for kind in wanted]
    if isinstance(keys, tuple) and len(keys) == 2:
        pairs = zip(keys, found, strict=True)
        found = [[key] if key in among else among for key, among in pairs]
    if [len(among) for among in found] != [1, 1]:
        kinds = [f"{key}: {type(feature).__name__}" for key, feature in features.items()]
        raise DataError(
            f"{name} is not a data set for image classification: an Image and a ClassLabel are"
            f" needed, found {first_few(kinds) or type(info.features).__name__}"
        )
    return found[0][0], found[1][0]


def check_images(name: str, shape: tuple[int | None, ...], dtype: Any) -> None:
    """Raises DataError for unsupported images; None is a size that is not known yet."""
    if np.dtype(dtype) != np.uint8 or not (shape[2] is None or 1 <= shape[2] <= 4):
        raise DataError(
            f"{name} has {np.dtype(dtype)} images [height, width, channels] = {list(shape)};"
            " supported are uint8 images with 1 to 4 channels"
        )


def sizes_differ(name: str, which: str = "") -> DataError:
    """The error that images have different sizes."""
    return DataError(
        f"{name} has images of different sizes{which}; resize them, with padding, by image_size, "
        "such as 64x64"
    )


def check_writable(folder: pathlib.Path, what: str) -> None:
    """Raises DataError if a folder cannot be written to or created."""
    if not can_be_written(folder):
        raise DataError(f"{what} {folder} cannot be written to; choose another one")


def download(
    name: str, builder: Any, data_dir: pathlib.Path | None, manual_dir: pathlib.Path | None
) -> Any:
    """Prepares the data set in TFDS's own folder and returns its builder."""
    import tensorflow_datasets as tfds

    require(name, "tensorflow", "array_record", "importlib_resources")
    if builder.name == HOUSE_NUMBERS:
        require(name, "h5py")
    root = pathlib.Path(os.fspath(builder.data_dir_root))
    check_writable(root, "data_dir")
    if manual_dir and originals.is_accepted():
        _accept_recompressed(name, builder, manual_dir)
    # Without a network, ten retries with growing pauses would take three minutes.
    with contextlib.suppress(ImportError):
        from tensorflow_datasets.core.download import downloader

        downloader.MAX_RETRIES = 4
    try:
        root.mkdir(parents=True, exist_ok=True)
        # TFDS finds unpacked files by their names alone, and MNIST, Fashion-MNIST and KMNIST share
        # theirs: unpack to a separate folder.
        with tempfile.TemporaryDirectory(
            prefix=".unpacked-", dir=root, ignore_cleanup_errors=True
        ) as unpacked:
            config = tfds.download.DownloadConfig(
                manual_dir=manual_dir, extract_dir=unpacked, try_download_gcs=False
            )
            builder.download_and_prepare(download_config=config, file_format="array_record")
    except Exception as error:
        if not find_builder(name, data_dir).is_prepared():  # by another process, which was faster
            raise _download_error(name, builder, manual_dir, error) from error
    # A new builder, since another process may have prepared the data.
    return find_builder(name, data_dir)


def _accept_recompressed(name: str, builder: Any, manual_dir: pathlib.Path) -> None:
    """Makes TFDS accept recompressed files with the right content.

    Raises:
      DataError: a file's content is wrong.
    """
    from tensorflow_datasets.core.download import checksums

    if not originals.is_known(builder.name):
        return
    expected = builder.url_infos or {}
    for url, original in expected.items():
        path = manual_dir / (original.filename or "")
        if not path.is_file() or (found := checksums.compute_url_info(path)) == original:
            continue
        if reason := originals.fault(builder.name, path):
            raise DataError(f"{name} cannot be prepared: {path} {reason}")
        print(f"{name}: accepting recompressed file {path}", file=sys.stderr, flush=True)
        # This changes the builder class's dictionary, for this process.
        expected[url] = dataclasses.replace(found, filename=original.filename)


def _download_error(
    name: str, builder: Any, manual_dir: pathlib.Path | None, error: Exception
) -> DataError:
    """A one-line error message for a failed preparation."""
    import requests
    import tensorflow_datasets as tfds

    if isinstance(error, tfds.download.DownloadError | requests.RequestException | URLError):
        request = getattr(error, "request", None)
        reason = f"{type(error).__name__} for {request.url}" if request else first_line(error)
        names = sorted({info.filename for info in (builder.url_infos or {}).values()} - {None, ""})
        missing = [n for n in names if not (manual_dir and (manual_dir / n).exists())]
        return DataError(
            f"{name} cannot be downloaded: {reason}; put the original files"
            f" ({first_few(missing) or 'see the TFDS catalog'}) into a folder and pass it as"
            " manual_dir, or use mnist_sample, which needs no download"
        )
    if found := re.search(r"downloaded to (.*), has wrong checksum", str(error)):
        # TFDS names the first such file.
        diagnosis = originals.diagnose(builder.name, pathlib.Path(found[1]))
        return DataError(f"{name} cannot be prepared: {diagnosis}")
    return DataError(f"{name} cannot be prepared: {first_line(error)}")


def require(name: str, *modules: str) -> None:
    """Raises DataError if a module that preparing a data set needs is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise DataError(
            f"{name} cannot be prepared without {', '.join(missing)}: pip install 'stn_jax[data]'"
            " (needed only for preparing a data set, not for training)"
        )


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(":;.") if lines else type(error).__name__


def first_few(words: list[str], most: int = 8) -> str:
    """Joins the first few words, with an ellipsis if there are more."""
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")
