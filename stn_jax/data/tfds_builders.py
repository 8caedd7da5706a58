"""TFDS's builders: found by name, checked, and prepared on disk."""

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
from stn_jax.data.cache import DataError

HOUSE_NUMBERS = "svhn_numbers"


def find_builder(name: str, data_dir: pathlib.Path | None) -> Any:
    """Returns the TFDS builder of a data set that TFDS knows or that is ready in data_dir."""
    import tensorflow_datasets as tfds

    dataset, _, config = name.partition("/")
    if dataset == HOUSE_NUMBERS:  # TFDS knows it from then on
        from stn_jax.data.svhn_numbers import svhn_numbers_dataset_builder  # noqa: F401
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = " or ".join(difflib.get_close_matches(dataset, known))
        hint = f"; did you mean {close}?" if close else ", nor a name close to it"
        raise DataError(f"TFDS does not know the data set {dataset}{hint}") from error
    except Exception as error:
        if config and dataset in tfds.list_builders(with_community_datasets=False):
            configs = list(tfds.builder_cls(dataset).builder_configs)
            if config not in configs:
                some = first_few(configs) or "none"
                message = f"{dataset} has no configuration {config}; it has {some}"
                raise DataError(message) from error
        raise DataError(f"TFDS cannot offer {name}: {last_line(error)}") from error


def example_names(name: str, info: Any) -> tuple[str, str]:
    """Returns the names of the image and the label among the features."""
    import tensorflow_datasets as tfds

    features, keys = info.features, info.supervised_keys
    if not isinstance(features, tfds.features.FeaturesDict):
        features = {}
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    # Without supervised keys that fit, the only image and the only label will do.
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
    """Refuses images of another kind; None stands for a size that is not known yet."""
    height, width, channels = shape
    if np.dtype(dtype) != np.uint8 or height != width or channels not in (1, 3, None):
        raise DataError(
            f"{name} has {np.dtype(dtype)} images [height, width, channels] = {list(shape)};"
            " supported are square uint8 images with 1 or 3 channels"
        )


def check_writable(folder: pathlib.Path, what: str) -> None:
    """Finds out before any work whether a folder can be written to, or made."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
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
    # Ten retries with growing pauses would keep who has no network waiting for three minutes.
    with contextlib.suppress(ImportError):
        from tensorflow_datasets.core.download import downloader

        downloader.MAX_RETRIES = 4
    try:
        root.mkdir(parents=True, exist_ok=True)
        # TFDS goes by file names alone when it looks for what is unpacked already, and MNIST's
        # names are those of Fashion-MNIST and KMNIST too: unpack to a folder of our own.
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
    # What another process has prepared is unknown to a builder made before.
    return find_builder(name, data_dir)


def _accept_recompressed(name: str, builder: Any, manual_dir: pathlib.Path) -> None:
    """Has TFDS take files of the right content that are not the originals byte for byte.

    Raises:
      DataError: what a file holds is wrong.
    """
    from tensorflow_datasets.core.download import checksums

    if not originals.is_known(builder.name):
        return
    expected = builder.url_infos or {}
    for url, original in expected.items():
        path = manual_dir / (original.filename or "")
        if not path.is_file() or (found := checksums.compute_url_info(path)) == original:
            continue
        if why := originals.fault(builder.name, path):
            raise DataError(f"{name} cannot be prepared: {path} {why}")
        print(f"{name}: {path}, compressed anew, is taken", file=sys.stderr, flush=True)
        # The dictionary is the builder class's own, in this process.
        expected[url] = dataclasses.replace(found, filename=original.filename)


def _download_error(
    name: str, builder: Any, manual_dir: pathlib.Path | None, error: Exception
) -> DataError:
    """Says in one line why a data set could not be prepared."""
    import requests
    import tensorflow_datasets as tfds

    if isinstance(error, tfds.download.DownloadError | requests.RequestException | URLError):
        request = getattr(error, "request", None)
        reason = f"{type(error).__name__} for {request.url}" if request else last_line(error)
        names = sorted({info.filename for info in (builder.url_infos or {}).values()} - {None, ""})
        lacking = [n for n in names if not (manual_dir and (manual_dir / n).exists())]
        return DataError(
            f"{name} cannot be downloaded: {reason}; put the original files"
            f" ({first_few(lacking) or 'see the TFDS catalog'}) into a folder and give it as"
            " manual_dir, or use mnist_sample, which needs no download"
        )
    if found := re.search(r"downloaded to (.*), has wrong checksum", str(error)):
        # TFDS names the first such file.
        said = originals.said_of(builder.name, pathlib.Path(found[1]))
        return DataError(f"{name} cannot be prepared: {said}")
    return DataError(f"{name} cannot be prepared: {last_line(error)}")


def require(name: str, *modules: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise DataError(
            f"{name} cannot be prepared without {', '.join(missing)}: pip install 'stn_jax[data]'"
            " (only for preparing a data set, not for training)"
        )


def last_line(error: BaseException) -> str:
    """Returns the first line of what an exception says."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(":;.") if lines else type(error).__name__


def first_few(words: list[str], most: int = 8) -> str:
    """Joins the first few of many words."""
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")
