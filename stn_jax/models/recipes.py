"""The network settings of each task: classifier, localization networks, warp."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from stn_jax.models import classifiers
from stn_jax.models.classifiers import Classifier
from stn_jax.models.localization import ConvLocalization, DenseLocalization


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The network settings of a task (paper, Sections 3.1 and 3.2; the authors' code)."""

    classifier: Callable[..., Classifier]
    localization: Callable[[int, Any], nn.Module]
    downsample: int
    padding_mode: str


def _dense(depth: int, dtype: Any) -> nn.Module:
    return DenseLocalization((32, 32, 32), dtype)


def _conv(depth: int, dtype: Any) -> nn.Module:
    return ConvLocalization((20, 20), 5, 2, (20,), dtype)


def _conv_scaled(depth: int, dtype: Any) -> nn.Module:
    return ConvLocalization((20, 20), 5, 2, (20,), dtype, pool_input=depth == 0)


def _svhn(depth: int, dtype: Any, padding: str = "SAME", pools: int = 1) -> nn.Module:
    if depth:
        return DenseLocalization((32, 32), dtype)
    return ConvLocalization((32, 32), 5, pools, (32, 32), dtype, padding)


_svhn_legacy = functools.partial(_svhn, padding="VALID")
# Pools once more, since images may be large; without padding it would not take small ones.
_any_data = functools.partial(_svhn, pools=2)


def _svhn_cropped(classes: int = 10, **options: Any) -> Classifier:
    return classifiers.svhn(classes, None, **options)


# By name, for one label an image.
CLASSIFIERS = {
    "small": classifiers.small,
    "mnist": classifiers.mnist,
    "svhn": _svhn_cropped,
    "residual": classifiers.residual,
}
# The tasks for any data set.
ANY_DATA = ("plain", "rotated", "translated", "scaled", "affine")
_PUBLISHED = {
    "rotated_mnist": Recipe(classifiers.mnist, _dense, 1, "border"),
    "translated_mnist": Recipe(classifiers.mnist, _conv, 2, "border"),
    "scaled_mnist": Recipe(classifiers.mnist, _conv_scaled, 1, "border"),
    "svhn": Recipe(classifiers.svhn, _svhn, 1, "zeros"),
    "svhn_cropped": Recipe(_svhn_cropped, _svhn, 1, "zeros"),
    **dict.fromkeys(ANY_DATA, Recipe(classifiers.mnist, _any_data, 1, "zeros")),
}
_LEGACY = {
    "scaled_mnist": Recipe(classifiers.mnist, _conv, 2, "border"),
    "svhn": Recipe(classifiers.svhn, _svhn_legacy, 1, "zeros"),
    "svhn_cropped": Recipe(_svhn_cropped, _svhn_legacy, 1, "zeros"),
}
# By recipe and task.
SETTINGS = {"published": _PUBLISHED, "legacy": _PUBLISHED | _LEGACY}


def classifier_of(
    task: str, settings: Recipe, name: str | None, blocks: Sequence[Sequence[int]] | None
) -> Callable[..., Classifier]:
    """What makes the classifier: given by blocks, by name, or the task's own."""
    if (name or blocks) and task == "svhn":
        raise ValueError(
            "task is 'svhn', whose classifier is its own; leave out classifier, blocks"
        )
    if name and name not in CLASSIFIERS:
        raise ValueError(f"classifier is {name!r}; expected one of {', '.join(CLASSIFIERS)}")
    if blocks:
        return functools.partial(classifiers.of_blocks, blocks)
    return CLASSIFIERS[name] if name else settings.classifier
