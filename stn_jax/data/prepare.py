"""Prepares a TFDS data set and decodes it into the cache.

    python -m stn_jax.data.prepare --name=mnist --cache_dir=DIR [--data_dir=DIR] [--manual_dir=DIR]

A separate program, so that TensorFlow, which TFDS needs for preparation, is not loaded into the
training process. Progress goes to stderr. The only line on stdout is the data set's folder in the
cache (status 0) or an error message (status 1).
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from logging import getLogger
from typing import Any

import numpy as np
import tqdm

from stn_jax.data import cache, house_numbers
from stn_jax.data.derived import DERIVED
from stn_jax.data.image_sets import DataError
from stn_jax.data.options import DataOptions
from stn_jax.data.pictures import Survey, fitted, kind_of, open_image
from stn_jax.data.splitting import split_note, stratified
from stn_jax.data.tfds_builders import (
    HOUSE_NUMBERS,
    check_images,
    check_writable,
    download,
    example_names,
    find_builder,
    first_few,
    first_line,
    require,
    sizes_differ,
)

_BATCH = 1024


def prepare(
    name: str,
    *,
    data_dir: pathlib.Path | None,
    manual_dir: pathlib.Path | None,
    cache_dir: pathlib.Path,
    options: DataOptions | None = None,
) -> pathlib.Path:
    """Prepares a data set, unless ``data_dir`` has it already, and decodes it into the cache.

    Args:
      name: the data set's name in TFDS, optionally with a configuration. In place of one that is
        drawn from another (mnist_rot), that one is prepared.
      data_dir: folder of TFDS's prepared data sets; None for TFDS's default.
      manual_dir: folder with copies of the original files, or None.
      cache_dir: the cache; the data set is stored in its folder ``<name>/<version>``.
      options: how images are brought to one form, and split.

    Returns:
      The data set's folder.

    Raises:
      DataError: the data set is unknown, unavailable, or not supported.
    """
    import tensorflow_datasets as tfds

    options = options or DataOptions()
    name, _ = DERIVED.get(name, (name, None))
    builder = find_builder(name, data_dir)
    numbers = builder.name == HOUSE_NUMBERS
    if not numbers:
        image_key, label_key = example_names(name, builder.info)
        feature = builder.info.features[image_key]
        check_images(name, feature.shape, feature.np_dtype)
    check_writable(cache_dir, "cache_dir")
    if not builder.is_prepared():
        if not numbers and None in feature.shape[:2] and not options.image_size:
            raise sizes_differ(name)  # before hours of downloading
        builder = download(name, builder, data_dir, manual_dir)
    names, notes = None, tuple[str, ...]()
    if numbers:
        num_classes, splits = house_numbers.CLASSES, _house_numbers(name, builder)
    else:
        label = builder.info.features[label_key]
        num_classes, names = label.num_classes, tuple(label.names)
        splits, notes = _Labeled(name, builder, image_key, label_key, options).splits()
    return cache.write(
        cache_dir / (name + options.key),
        name + options.key,
        str(builder.info.version),
        num_classes,
        splits,
        origin=f"{builder.info.full_name} of TFDS {tfds.__version__}",
        class_names=None if names == tuple(map(str, range(num_classes))) else names,
        notes=notes,
    )


class _Labeled:
    """A prepared data set of images with one label each."""

    def __init__(
        self, name: str, builder: Any, image_key: str, label_key: str, options: DataOptions
    ):
        self.name, self.builder, self.options = name, builder, options
        self.image_key, self.label_key = image_key, label_key
        # Images are decoded by TFDS, or by Pillow where they are converted.
        self.skip = (image_key,) if options.image_size or options.channels else ()

    def splits(self) -> tuple[dict[str, tuple[int, Iterator[Any]]], tuple[str, ...]]:
        """The splits as :func:`stn_jax.data.cache.write` takes them, and notes on them."""
        available = self.builder.info.splits
        tests = [split for split in ("test", "validation") if split in available]
        shape, notes = self._shape(["train", *tests[:1]]) if self.skip else (None, ())
        if not tests and "train" in available:
            drawn, note = self._drawn()
            return {
                "train": (int((~drawn).sum()), self._batches("train", shape, ~drawn)),
                "test": (int(drawn.sum()), self._batches("train", shape, drawn)),
            }, (*notes, note)
        if tests[:1] == ["validation"]:
            notes += ("no test split: the validation split serves as one",)
        return {
            split: (_examples(self.name, self.builder, place)[0], self._batches(place, shape))
            for split, place in (("train", "train"), ("test", (*tests, "test")[0]))
        }, notes

    def _drawn(self) -> tuple[np.ndarray, str]:
        """Which training examples serve as the test split, and a note on it."""
        fraction, seed = self.options.test_fraction, self.options.split_seed
        examples = _examples(self.name, self.builder, "train", skip=(self.image_key,))[1]
        labels = np.array([each[self.label_key] for each in examples])
        names = tuple(self.builder.info.features[self.label_key].names)
        return stratified(self.name, labels, names, fraction, seed), split_note(fraction, seed)

    def _shape(self, splits: list[str]) -> tuple[tuple[int, int, int], tuple[str, ...]]:
        """The common shape of the images, and notes on the conversions that it takes."""
        survey = Survey()
        for split in splits:
            for each in _examples(self.name, self.builder, split, skip=self.skip)[1]:
                with open_image(io.BytesIO(each[self.image_key]), f"an image of {split}") as image:
                    survey.add(kind_of(image))
        return survey.shape(self.options)

    def _batches(
        self, split: str, shape: tuple[int, int, int] | None, chosen: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields images uint8 [n, H, W, C] and labels [n] of the chosen examples."""
        count, examples = _examples(self.name, self.builder, split, skip=self.skip)
        examples = _progress(examples, count, f"{self.name}: decoding the {split} split")
        if chosen is not None:
            examples = itertools.compress(examples, chosen)
        if shape is not None:
            examples = (self._converted(example, shape) for example in examples)
        yield from _batches(self.name, examples, self.image_key, self.label_key)

    def _converted(
        self, example: dict[str, Any], shape: tuple[int, int, int]
    ) -> dict[str, np.ndarray]:
        with open_image(io.BytesIO(example[self.image_key]), f"an image of {self.name}") as image:
            return example | {self.image_key: fitted(image, shape)}


def _house_numbers(name: str, builder: Any) -> dict[str, tuple[int, Iterator[Any]]]:
    """The splits of SVHN's full numbers for the 64x64 task; "extra" is part of "train"."""
    for split, faults in builder.info.metadata.get("faults", {}).items():
        if faults["count"]:
            listed = [f"{file}: {reason}" for file, reason in faults["files"].items()]
            message = f"{name}: {faults['count']} files of the {split} split skipped"
            print(f"{message} ({first_few(listed)})", file=sys.stderr, flush=True)
    splits = {}
    for split, parts in (("train", ("train", "extra")), ("test", ("test",))):
        count, sources = 0, []
        for part in (part for part in parts if part in builder.info.splits):
            digits = _examples(name, builder, part, skip=("image",))[1]
            lengths = [len(each["digits"]) for each in digits]
            fits = np.array(lengths) <= house_numbers.POSITIONS
            longer = len(fits) - int(fits.sum())
            message = f"dropped {longer} with more than {house_numbers.POSITIONS} digits"
            print(f"{name}: {part} split, {message}", file=sys.stderr, flush=True)
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
        images = [house_numbers.crop_number(each["image"], each["boxes"]) for each in batch]
        yield np.stack(images), np.stack([house_numbers.labels_of(e["digits"]) for e in batch])


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
        # Prepared in TFDS's default format, which only TensorFlow can read.
        require(name, "tensorflow")
        one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
        dataset = builder.as_dataset(split=split, read_config=one_by_one, decoders=decoders)
        return builder.info.splits[split].num_examples, iter(tfds.as_numpy(dataset))
    except ValueError as error:
        raise DataError(
            f"{name} needs examples in the splits train and test: {first_line(error)}"
        ) from error
    except ImportError:
        require(name, "array_record")
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
            raise sizes_differ(name, f", {list(shapes[0])} and {list(shapes[1])} among them")
        images = np.stack([example[image_key] for example in batch])
        check_images(name, images.shape[1:], images.dtype)
        yield images, np.array([example[label_key] for example in batch])


def _progress(examples: Iterable[Any], count: int, title: str) -> Iterator[Any]:
    """Yields the examples, with a progress bar on a terminal and a line elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(examples, title, count, unit=" images")
    else:
        print(f"{title}, {count} images", file=sys.stderr, flush=True)
        yield from examples


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stn_jax.data.prepare",
        description="Prepares a TFDS data set and decodes it into the cache.",
    )
    parser.add_argument("--name", required=True, help="data set of TFDS, like mnist")
    parser.add_argument("--cache_dir", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--data_dir", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--manual_dir", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--options", type=_options, default=DataOptions(), metavar="JSON")
    arguments = vars(parser.parse_args())

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    # Keeps TensorFlow off the accelerator, and quiet.
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
            output, status = str(prepare(**arguments)), 0
    except DataError as error:
        output, status = str(error), 1
    except Exception as error:
        traceback.print_exc()
        output, status = f"{arguments['name']} cannot be prepared: {error!r}", 1
    except KeyboardInterrupt:
        sys.exit(130)
    print(" ".join(output.split()))
    sys.exit(status)


def _options(text: str) -> DataOptions:
    fields = json.loads(text)
    size = fields.get("image_size")
    return DataOptions(**fields | {"image_size": size and tuple(size)})


def _stop(signum: int, frame: Any) -> None:
    """Stops the program by an exception, so that unfinished files are cleaned up."""
    # A second signal must not interrupt the cleanup.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
