"""The study's networks in PyTorch, channels first.

The same networks as those of ``stn_jax.create_model``, in plain ``torch.nn``: the benchmarks time
them, and the tests compare outputs and gradients. Submodules have the same names as in Flax, so
that a parameter's name gives its path in the Flax tree.
"""

import re
from typing import Any, NamedTuple

from stn_jax.interop.torch_layers import (
    ConvBlock,
    ConvLocalization,
    DenseLocalization,
    Head,
    Network,
    Shape,
    SpatialTransformer,
    Stack,
)


class _Task(NamedTuple):
    image_shape: Shape
    classes: int
    positions: int | None
    downsample: int
    padding_mode: str


_TASKS = {
    "rotated_mnist": _Task((1, 28, 28), 10, None, 1, "border"),
    "translated_mnist": _Task((1, 60, 60), 10, None, 2, "border"),
    "scaled_mnist": _Task((1, 112, 112), 10, None, 1, "border"),
    "svhn": _Task((3, 64, 64), 11, 5, 1, "zeros"),
    "svhn_cropped": _Task((3, 32, 32), 10, None, 1, "zeros"),
}


def create(
    task: str,
    variant: str,
    *,
    classes: int | None = None,
    width: float = 1.0,
    iterations: int = 1,
    mode: str = "bilinear",
    padding_mode: str | None = None,
    align_corners: bool = True,
    downsample: int | None = None,
    image_shape: Shape | None = None,
) -> Network:
    """Makes one of the study's networks.

    Args:
      task: "rotated_mnist", "translated_mnist", "scaled_mnist", "svhn" or "svhn_cropped".
      variant: "cnn", "stn-cX", "stn-slX" or "stn-dlX".
      classes, width, iterations, mode, padding_mode, align_corners, downsample: as in
        ``stn_jax.create_model``.
      image_shape: channels, height and width of the images; None: the task's own.

    Returns:
      A module from images ``[B, C, H, W]`` to logits ``[B, 10]`` or ``[B, 5, 11]``.

    Raises:
      KeyError: the task is unknown.
      ValueError: the variant is unknown.
    """
    recipe = _TASKS[task]
    match = re.fullmatch(r"cnn|stn-(c|sl|dl)(\d+)", variant)
    if match is None:
        raise ValueError(f"variant is {variant!r}; expected cnn, stn-cX, stn-slX or stn-dlX")
    kind, depth = match[1], int(match[2] or 0)
    images = image_shape or recipe.image_shape
    warp_depth = depth if kind == "c" else 0
    localization_depth = 0 if kind == "dl" else depth

    localization_shape, blocks = _blocks(task, images, depth, width)
    warped = localization_shape if kind == "c" else images
    if kind is not None:
        factor = downsample or recipe.downsample
        warped = (warped[0], warped[1] // factor, warped[2] // factor)
    last, rest = _blocks(task, warped, None, width, start=warp_depth)
    head = _head(task, last, classes or recipe.classes, width)
    if kind is None:
        return Network(rest, head, None, 0, 0)

    localization = _localization(task, localization_shape, depth)
    features = localization.features
    transformer = SpatialTransformer(
        Stack(blocks, localization, features) if kind == "dl" and depth else localization,
        features,
        size=warped[1:],
        iterations=iterations,
        mode=mode,
        padding_mode=padding_mode or recipe.padding_mode,
        align_corners=align_corners,
    )
    return Network([*blocks[:warp_depth], *rest], head, transformer, warp_depth, localization_depth)


def _blocks(
    task: str, shape: Shape, stop: int | None, width: float, start: int = 0
) -> tuple[Shape, list[ConvBlock]]:
    """Blocks ``start`` to ``stop`` of the classifier, and the shape of their output."""
    recipes: list[tuple[int, int, dict[str, Any]]] = (
        [(64, 9, {"pool": True}), (64, 7, {"pool": True})]
        if task.endswith("mnist")
        else [
            (n, 5, {"same": True, "pool": i % 2 == 0, "dropout": 0.5 if i else 0.0})
            for i, n in enumerate((48, 64, 128, 160, 192, 192, 192, 192))
        ]
    )
    blocks = []
    for features, kernel_size, options in recipes[start:stop]:
        blocks.append(ConvBlock(shape, _scaled(features, width), kernel_size, **options))
        shape = blocks[-1].shape
    return shape, blocks


def _head(task: str, shape: Shape, classes: int, width: float) -> Head:
    if task.endswith("mnist"):
        return Head(shape, classes)
    return Head(shape, classes, _TASKS[task].positions, (_scaled(3072, width),) * 3, 0.5)


def _localization(task: str, shape: Shape, depth: int) -> DenseLocalization | ConvLocalization:
    if task == "rotated_mnist":
        return DenseLocalization(shape, (32, 32, 32))
    if task.endswith("mnist"):
        halved = task == "scaled_mnist" and depth == 0
        return ConvLocalization(shape, (20, 20), 2, (20,), pool_input=halved)
    if depth:
        return DenseLocalization(shape, (32, 32))
    return ConvLocalization(shape, (32, 32), 1, (32, 32), same=True)


def _scaled(features: int, width: float) -> int:
    return max(1, round(features * width))
