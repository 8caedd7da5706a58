"""Options for resizing, converting and splitting the images of a data set."""

import dataclasses
import math

from stn_jax.data.image_sets import DataError


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options for a data set's images and splits.

    Attributes:
      image_size: height and width to which images are resized, with padding; None: their own, or
        the median if a folder has images of different sizes.
      channels: 1 gray, 2 gray with alpha, 3 color, 4 color with alpha; 0: those of the files.
      test_fraction: the fraction of each class that becomes the test split of a data set without
        one.
      split_seed: seed of that random split.
      skip_unreadable: whether unreadable files are skipped and listed instead of being an error.
      max_bytes: bound on the size of the decoded images; None: no bound.
    """

    image_size: tuple[int, int] | None = None
    channels: int = 0
    test_fraction: float = 0.2
    split_seed: int = 0
    skip_unreadable: bool = False
    max_bytes: int | None = None

    @property
    def key(self) -> str:
        """The options that change the arrays, as a suffix of the name in the cache."""
        default = DataOptions()
        size = "x".join(map(str, self.image_size or ()))
        parts = {
            "size": (size, ""),
            "channels": (self.channels, 0),
            "test": (self.test_fraction, default.test_fraction),
            "seed": (self.split_seed, 0),
            "skip": (self.skip_unreadable, False),
        }
        given = [f"{name}={value}" for name, (value, usual) in parts.items() if value != usual]
        return f"@{','.join(given)}" if given else ""

    def check_size(self, name: str, count: int, shape: tuple[int, int, int]) -> None:
        """Raises DataError, with a size that would fit, if the images exceed ``max_bytes``."""
        size = count * math.prod(shape)
        if self.max_bytes is None or size <= self.max_bytes:
            return
        factor = math.sqrt(self.max_bytes / size)
        smaller = "x".join(str(max(1, int(side * factor))) for side in shape[:2])
        raise DataError(
            f"the {count:,} images of {name}, {'x'.join(map(str, shape))}, take "
            f"{size / 1e9:.1f} GB of memory; {self.max_bytes / 1e9:.1f} GB are available. These "
            f"would fit: image_size={smaller}, or {int(count * self.max_bytes / size):,} images of "
            "this size; max_data_gb sets another bound"
        )
