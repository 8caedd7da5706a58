"""Prepares a TFDS data set and decodes it into the cache.

    python -m stn_jax.data.prepare --name=mnist --cache_dir=DIR [--data_dir=DIR] [--manual_dir=DIR]

A program of its own, so that TensorFlow, which TFDS needs for preparing, stays out of the process
that trains. Progress goes to stderr. The only line on stdout is the data set's folder in the cache
(status 0) or why there is none (status 1).
"""

import argparse
import contextlib
import dataclasses
import difflib
import importlib.util
import itertools
import os
import pathlib
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from logging import getLogger
from typing import Any
from urllib.error import URLError

import numpy as np
import tqdm

from stn_jax.data import cache, house_numbers, originals
from stn_jax.data.cache import DataError

HOUSE_NUMBERS = "svhn_numbers"
_BATCH = 1024


def prepare(
    name: str,
    *,
    data_dir: pathlib.Path | None,
    manual_dir: pathlib.Path | None,
    cache_dir: pathlib.Path,
) -> pathlib.Path:
    """Prepares a data set, unless ``data_dir`` has it, and decodes it into the cache.

    Args:
      name: the data set's name in TFDS, with a configuration or without.
      data_dir: where TFDS keeps its prepared data sets; None for TFDS's own choice.
      manual_dir: folder with copies of the original files, or None.
      cache_dir: the cache; the data set gets the folder ``<name>/<version>`` in it.

    Returns:
      The data set's folder.

    Raises:
      DataError: the data set is unknown, cannot be had, or is of a kind that is not supported.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    numbers = builder.name == HOUSE_NUMBERS
    if not numbers:
        image_key, label_key = _keys(name, builder.info)
        feature = builder.info.features[image_key]
        _check_images(name, feature.shape, feature.np_dtype)
    _check_writable(cache_dir, "cache_dir")
    if not builder.is_prepared():
        if not numbers and None in feature.shape:  # said before hours of downloading
            raise DataError(f"{name} has images of different sizes, which is not supported")
        builder = _download(name, builder, data_dir, manual_dir)
    if numbers:
        num_classes, splits = house_numbers.CLASSES, _house_numbers(name, builder)
    else:
        num_classes, splits = builder.info.features[label_key].num_classes, {}
        for split in ("train", "test"):
            count, examples = _examples(name, builder, split)
            examples = _progress(examples, count, f"{name}: decoding the {split} split")
            splits[split] = count, _batches(name, examples, image_key, label_key)
    return cache.write(
        cache_dir / name,
        name,
        str(builder.info.version),
        num_classes,
        splits,
        origin=f"{builder.info.full_name} of TFDS {tfds.__version__}",
    )


def _house_numbers(name: str, builder: Any) -> dict[str, tuple[int, Iterator[Any]]]:
    """The splits of SVHN's full numbers for the 64x64 task; "extra" belongs to the training."""
    for split, faults in builder.info.metadata.get("faults", {}).items():
        if faults["count"]:
            listed = [f"{file}: {reason}" for file, reason in faults["files"].items()]
            said = f"{name}: {faults['count']} left out of the {split} split"
            print(f"{said} ({_some(listed)})", file=sys.stderr, flush=True)
    splits = {}
    for split, parts in (("train", ("train", "extra")), ("test", ("test",))):
        count, sources = 0, []
        for part in (part for part in parts if part in builder.info.splits):
            digits = _examples(name, builder, part, skip=("image",))[1]
            lengths = [len(each["digits"]) for each in digits]
            fits = np.array(lengths) <= house_numbers.POSITIONS
            longer = len(fits) - int(fits.sum())
            said = f"of more than {house_numbers.POSITIONS} digits"
            print(f"{name}: {part} split, {longer} {said} dropped", file=sys.stderr, flush=True)
            count += int(fits.sum())
            total, examples = _examples(name, builder, part)
            title = f"{name}: decoding the {part} split"
            sources.append(_progress(examples, total, title))
        splits[split] = count, _number_batches(itertools.chain.from_iterable(sources))
    return splits


def _number_batches(examples: Iterator[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images uint8 [n, 64, 64, 3] and labels [n, 5]."""
    fitting = (e for e in examples if len(e["digits"]) <= house_numbers.POSITIONS)
    while batch := list(itertools.islice(fitting, _BATCH)):
        images = [house_numbers.cut_out(each["image"], each["boxes"]) for each in batch]
        yield np.stack(images), np.stack([house_numbers.labels_of(e["digits"]) for e in batch])


def _builder(name: str, data_dir: pathlib.Path | None) -> Any:
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
                some = _some(configs) or "none"
                message = f"{dataset} has no configuration {config}; it has {some}"
                raise DataError(message) from error
        raise DataError(f"TFDS cannot offer {name}: {_line(error)}") from error


def _keys(name: str, info: Any) -> tuple[str, str]:
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
            f" needed, found {_some(kinds) or type(info.features).__name__}"
        )
    return found[0][0], found[1][0]


def _check_images(name: str, shape: tuple[int | None, ...], dtype: Any) -> None:
    """Refuses images of another kind; None stands for a size that is not known yet."""
    height, width, channels = shape
    if np.dtype(dtype) != np.uint8 or height != width or channels not in (1, 3, None):
        raise DataError(
            f"{name} has {np.dtype(dtype)} images [height, width, channels] = {list(shape)};"
            " supported are square uint8 images with 1 or 3 channels"
        )


def _check_writable(folder: pathlib.Path, what: str) -> None:
    """Finds out before any work whether a folder can be written to, or made."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise DataError(f"{what} {folder} cannot be written to; choose another one")


def _download(
    name: str, builder: Any, data_dir: pathlib.Path | None, manual_dir: pathlib.Path | None
) -> Any:
    """Prepares the data set in TFDS's own folder and returns its builder."""
    import tensorflow_datasets as tfds

    _require(name, "tensorflow", "array_record", "importlib_resources")
    if builder.name == HOUSE_NUMBERS:
        _require(name, "h5py")
    root = pathlib.Path(os.fspath(builder.data_dir_root))
    _check_writable(root, "data_dir")
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
        if not _builder(name, data_dir).is_prepared():  # by another process, which was faster
            raise _download_error(name, builder, manual_dir, error) from error
    # What another process has prepared is unknown to a builder made before.
    return _builder(name, data_dir)


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
        reason = f"{type(error).__name__} for {request.url}" if request else _line(error)
        names = sorted({info.filename for info in (builder.url_infos or {}).values()} - {None, ""})
        lacking = [n for n in names if not (manual_dir and (manual_dir / n).exists())]
        return DataError(
            f"{name} cannot be downloaded: {reason}; put the original files"
            f" ({_some(lacking) or 'see the TFDS catalog'}) into a folder and give it as"
            " manual_dir, or use mnist_sample, which needs no download"
        )
    if found := re.search(r"downloaded to (.*), has wrong checksum", str(error)):
        # TFDS names the first such file.
        said = originals.said_of(builder.name, pathlib.Path(found[1]))
        return DataError(f"{name} cannot be prepared: {said}")
    return DataError(f"{name} cannot be prepared: {_line(error)}")


def _require(name: str, *modules: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise DataError(
            f"{name} cannot be prepared without {', '.join(missing)}: pip install 'stn_jax[data]'"
            " (only for preparing a data set, not for training)"
        )


def _examples(
    name: str, builder: Any, split: str, skip: tuple[str, ...] = ()
) -> tuple[int, Iterator[Any]]:
    """Returns the number of examples in a split, and the decoded examples in TFDS's order.

    The features in ``skip`` stay encoded, which is faster.
    """
    import tensorflow_datasets as tfds

    decoders = {key: tfds.decode.SkipDecoding() for key in skip}
    options = {"decoders": decoders} if decoders else {}
    try:
        source = builder.as_data_source(split, **options)
    except NotImplementedError:
        # Prepared by someone in TFDS's default format, which TensorFlow alone can read.
        _require(name, "tensorflow")
        one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
        dataset = builder.as_dataset(split=split, read_config=one_by_one, decoders=decoders)
        return builder.info.splits[split].num_examples, iter(tfds.as_numpy(dataset))
    except ValueError as error:
        raise DataError(
            f"{name} needs examples in the splits train and test: {_line(error)}"
        ) from error
    except ImportError:
        _require(name, "array_record")
        raise
    starts = range(0, len(source), _BATCH)
    # Twice as fast as one at a time.
    batches = (source.__getitems__(range(i, min(i + _BATCH, len(source)))) for i in starts)
    return len(source), itertools.chain.from_iterable(batches)


def _batches(
    name: str, examples: Iterator[Any], image_key: str, label_key: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images uint8 [n, H, W, C] and labels [n]."""
    while batch := list(itertools.islice(examples, _BATCH)):
        shapes = sorted({example[image_key].shape for example in batch})
        if len(shapes) > 1:
            raise DataError(
                f"{name} has images of different sizes, {list(shapes[0])} and {list(shapes[1])}"
                " among them, which is not supported"
            )
        images = np.stack([example[image_key] for example in batch])
        _check_images(name, images.shape[1:], images.dtype)
        yield images, np.array([example[label_key] for example in batch])


def _progress(examples: Iterable[Any], count: int, title: str) -> Iterator[Any]:
    """Passes the examples on, with a bar on a terminal and a line elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(examples, title, count, unit=" images")
    else:
        print(f"{title}, {count} images", file=sys.stderr, flush=True)
        yield from examples


def _line(error: BaseException) -> str:
    """Returns the first line of what an exception says."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(":;.") if lines else type(error).__name__


def _some(words: list[str], most: int = 8) -> str:
    """Joins the first few of many words."""
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stn_jax.data.prepare",
        description="Prepares a TFDS data set and decodes it into the cache.",
    )
    parser.add_argument("--name", required=True, help="data set of TFDS, like mnist")
    parser.add_argument("--cache_dir", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--data_dir", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--manual_dir", type=pathlib.Path, metavar="DIR")
    arguments = vars(parser.parse_args())

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    # TensorFlow has no business with the accelerator, nor much to say.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import tensorflow_datasets as tfds
            from absl import logging

            logging.set_verbosity(logging.ERROR)
            getLogger("urllib3").setLevel("ERROR")
            if not sys.stderr.isatty():
                tfds.disable_progress_bar()
            answer, status = str(prepare(**arguments)), 0
    except DataError as error:
        answer, status = str(error), 1
    except Exception as error:
        traceback.print_exc()
        answer, status = f"{arguments['name']} cannot be prepared: {error!r}", 1
    except KeyboardInterrupt:
        sys.exit(130)
    print(" ".join(answer.split()))
    sys.exit(status)


def _stop(signum: int, frame: Any) -> None:
    """Stops the work by an exception, so that nothing unfinished stays behind."""
    # A second signal must not disturb the tidying up.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
