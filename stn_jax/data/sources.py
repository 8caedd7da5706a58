"""Images and labels of a data set, by name.

``"mnist_sample"`` comes with the package, and the data sets in :data:`GENERATED` and :data:`KEPT`
are made up by functions. Any other name is a data set of TensorFlow Datasets. What
TFDS stores is slow to decode, so the decoded arrays are kept in a cache and mapped into memory from
there. Filling the cache is the work of another process (:mod:`stn_jax.data.prepare`): neither TFDS
nor TensorFlow is ever imported into this one.
"""

import importlib
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from stn_jax.data import cache, embedded
from stn_jax.data.archives import read_npz
from stn_jax.data.cache import DataError, Source, Split
from stn_jax.files import user_cache

__all__ = ["DataError", "Source", "Split", "is_synthetic", "load"]

# Data sets whose images are made when they are shown, by name: where the function is that returns
# the Source, "package.module:function". It is imported when the data set is asked for. Labels (and
# what images are drawn from) must be the same at each call; see ``Source.draw``.
GENERATED: dict[str, str] = {"street_numbers": "stn_jax.street_numbers:source"}
# Data sets that are made up once and kept in the cache: where the function is that fills their
# folder in it. Cheaper to train on where drawing takes as long as a step, as it does on a CPU.
KEPT: dict[str, str] = {"street_numbers/30k": "stn_jax.street_numbers:keep"}

# A name of TFDS with a configuration or without; it becomes a path in the cache.
_NAME = r"[a-z][a-z0-9_]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)?"


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """Loads a data set for image classification.

    The first time, a TFDS data set is prepared in ``data_dir``, unless it is there already, and
    decoded into the cache; this takes a while and reports on stderr. From then on it is mapped
    from the cache, whatever ``data_dir`` and ``manual_dir`` are. The cache goes by name and
    version: keep apart with ``cache_dir`` what shares both. The newest version in it is taken.

    Args:
      name: ``"mnist_sample"``, the name of a generated data set, or a TFDS data set such as
        ``"mnist"`` or ``"emnist/letters"``, with the splits "train" and "test" and square images,
        grayscale or colour, all of one size. ``"svhn_numbers"``, our own TFDS builder, gives house
        numbers as :mod:`stn_jax.data.house_numbers` cuts them out; train and extra together train.
      data_dir: where TFDS keeps its prepared data sets; None or empty for TFDS's own choice
        (``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``). It must exist, unless ``manual_dir`` is
        given too: then it is made where needed.
      manual_dir: folder with copies of the original files under their original names, which are
        used in place of downloads. It must exist.
      cache_dir: where the decoded arrays are kept, made where needed; None or empty for
        ``$STN_JAX_CACHE``, or ``stn_jax`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Returns:
      The data set. Its arrays cannot be written to.

    Raises:
      DataError: a folder does not exist, or the data set is unknown, cannot be downloaded, is of
        another kind, or is damaged.
    """
    manual = _folder(manual_dir, "manual_dir")
    data = _folder(data_dir, "data_dir", must_exist=manual is None)
    if name == embedded.NAME:
        return _load_sample()
    if name in GENERATED:
        generated: Source = _function(GENERATED[name])()
        return generated
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise DataError(
            f"{name!r} cannot be the name of a data set; expected {embedded.NAME!r} or a name of"
            " TFDS like 'mnist' or 'emnist/letters'"
        )
    root = _cache_root(cache_dir)
    if not cache.find(root / name):
        if name in KEPT:
            _function(KEPT[name])(root / name)
        else:
            _prepare(name, data, manual, root)
    folder = cache.find(root / name)
    if not folder:
        raise DataError(f"{name} was prepared but is not in the cache {root}; was it deleted?")
    return cache.read(folder, name)


def is_synthetic(name: str) -> bool:
    """Whether a data set's images are made up."""
    return name in GENERATED or name in KEPT


def _function(where: str) -> Callable[..., Any]:
    module, _, function = where.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _folder(
    path: str | os.PathLike[str] | None, what: str, must_exist: bool = True
) -> pathlib.Path | None:
    """Returns an argument as an absolute path, None if it was not given."""
    if path is None or not os.fspath(path):
        return None
    folder = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{what} {folder} is not a folder")
    if must_exist and not folder.exists():
        raise DataError(f"{what} {folder} does not exist; correct it, or make the folder first")
    return folder


def _cache_root(cache_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    default = os.environ.get("STN_JAX_CACHE") or user_cache()
    root = _folder(cache_dir, "cache_dir", must_exist=False)
    return root or pathlib.Path(os.path.abspath(os.path.expanduser(default)))


def _load_sample() -> Source:
    try:
        arrays = read_npz(embedded.PATH)
        splits = {}
        for split in ("train", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].astype(np.int32)
            images.flags.writeable = labels.flags.writeable = False
            splits[split] = Split(images, labels)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{embedded.PATH} is missing or damaged ({error}); install stn_jax again"
        ) from error
    return Source(embedded.NAME, embedded.VERSION, 10, splits["train"], splits["test"])


def _prepare(
    name: str, data: pathlib.Path | None, manual: pathlib.Path | None, root: pathlib.Path
) -> None:
    """Fills the cache in another process, and raises DataError with what that one has to say."""
    command = [sys.executable, "-P", "-m", "stn_jax.data.prepare", f"--name={name}"]
    command += [f"--cache_dir={root}"]
    command += [f"--data_dir={data}"] if data else []
    command += [f"--manual_dir={manual}"] if manual else []
    # It must find the packages that this process finds, however this one came by its path.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as child:
        try:
            answer, _ = child.communicate()
        except BaseException:
            # Ctrl-C, most likely: let it tidy up, which it does when terminated.
            child.terminate()
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    if child.returncode:
        raise DataError(answer.strip() or f"preparing {name} ended with status {child.returncode}")
