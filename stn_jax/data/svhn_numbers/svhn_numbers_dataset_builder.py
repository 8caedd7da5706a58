"""The TFDS builder ``svhn_numbers``."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from stn_jax.data.svhn_numbers import archive
from stn_jax.data.svhn_numbers.archive import ArchiveError, Fault

URL = "http://ufldl.stanford.edu/housenumbers/"
SPLITS = ("train", "test", "extra")
# Metadata lists this many faults by file name, and counts the others.
FAULTS_LISTED = 1000


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """Which archives are read, and how faults in them are handled.

    Attributes:
      refuse: whether a fault aborts the preparation; otherwise the image is skipped, logged, and
        listed in the metadata.
      published: whether the archives are the published ones, downloaded or from the manual folder;
        otherwise any archives of those names in the manual folder, at least train and test.
    """

    refuse: bool = False
    published: bool = True


class Builder(tfds.core.GeneratorBasedBuilder):
    """SVHN's full numbers: every photograph as published, its digits, and their boxes.

    The checksums of ``train.tar.gz`` and ``test.tar.gz`` are those that docTR
    (github.com/mindee/doctr) uses. For ``extra.tar.gz`` none is known to us, so TFDS accepts it
    verified only by gzip's checksum; ``register_checksums=True`` records it.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS declares it without)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"No manual download is needed: the archives are downloaded from {URL}. Copies of "
        "train.tar.gz, test.tar.gz and extra.tar.gz in manual_dir are used instead of downloads."
    )
    BUILDER_CONFIGS = [  # noqa: RUF012
        Config(name="published", description="Unreadable files are skipped and reported."),
        Config(name="strict", description="The first fault aborts the preparation.", refuse=True),
        Config(
            name="custom",
            description="Any archives of the same layout in manual_dir.",
            published=False,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        digit = tfds.features.ClassLabel(names=list("0123456789"))
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "file_name": tfds.features.Text(),
            "number": tfds.features.Text(),
            "digits": tfds.features.Sequence(digit),
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.int32),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage=URL,
            license="For non-commercial use only",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, Any]]]:
        names = {split: f"{split}.tar.gz" for split in SPLITS}
        paths = {
            split: path for split, name in names.items() if (path := _manual_file(dl_manager, name))
        }
        if self.builder_config.published:
            # Files with a checksum are found and verified by TFDS itself.
            urls = {split: URL + name for split, name in names.items()}
            wanted = [s for s in SPLITS if urls[s] in self.url_infos or s not in paths]
            paths |= dl_manager.download({split: urls[split] for split in wanted})
        elif not {"train", "test"} <= set(paths):
            found = ", ".join(path.name for path in paths.values()) or "none"
            raise ArchiveError(
                f"{self.builder_config.name} needs train.tar.gz and test.tar.gz, and optionally "
                f"extra.tar.gz, in manual_dir; found {found}"
            )
        return {split: self._generate_examples(split, path) for split, path in paths.items()}

    def _generate_examples(
        self, split: str, path: epath.Path
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Streams one archive; the key is the file's name.

        Raises:
          ArchiveError: it cannot be read, or has a fault and the configuration is strict.
        """
        count, faults = 0, {}

        def on_fault(fault: Fault) -> None:
            nonlocal count
            if self.builder_config.refuse:
                raise ArchiveError(
                    f"{fault} (the configuration {self.builder_config.name} refuses)"
                )
            logging.warning("svhn_numbers, %s split, skipped: %s", split, fault)
            count += 1
            if count <= FAULTS_LISTED:
                faults[fault.file] = fault.reason

        for entry in archive.read(path, on_fault):
            yield (
                entry.name,
                {
                    "image": entry.png,
                    "file_name": f"{split}/{entry.name}",
                    "number": "".join(map(str, entry.digits)),
                    "digits": entry.digits,
                    "boxes": entry.boxes,
                },
            )
        self.info.metadata.setdefault("faults", {})[split] = {"count": count, "files": faults}


def _manual_file(dl_manager: Any, name: str) -> epath.Path | None:
    """A file in manual_dir, if it exists."""
    try:
        path = dl_manager.manual_dir / name
    except AssertionError:  # the folder does not exist or is empty
        return None
    return path if path.exists() else None
