"""TFDS's own test of the builder, on archives made here. A program: it imports TensorFlow.

python tests/data_sources/svhn_builder_case.py
"""

import pathlib
import tempfile

import tensorflow_datasets as tfds
from made_svhn import numbers, write_archive

from stn_jax.data.svhn_numbers import svhn_numbers_dataset_builder

SPLITS = {"train": 5, "test": 3, "extra": 4}
FOLDER = pathlib.Path(tempfile.mkdtemp())
for seed, (split, count) in enumerate(SPLITS.items()):
    write_archive(FOLDER / f"{split}.tar.gz", numbers(count, seed))


class SvhnNumbersTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = svhn_numbers_dataset_builder.Builder
    SPLITS = SPLITS
    EXAMPLE_DIR = FOLDER
    DL_DOWNLOAD_RESULT = {split: f"{split}.tar.gz" for split in ("train", "test")}  # noqa: RUF012
    # No checksum is known for extra.tar.gz; those of the others are tested by themselves.
    SKIP_CHECKSUMS = True


if __name__ == "__main__":
    tfds.testing.test_main()
