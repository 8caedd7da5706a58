"""Networks: a classifier, and where in it a spatial transformer sits."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models import classifiers
from stn_jax.models.classifiers import Classifier
from stn_jax.models.localization import ConvLocalization, DenseLocalization
from stn_jax.models.submodules import call, call_in_turn
from stn_jax.models.transformer import SpatialTransformer
from stn_jax.warp import transforms
from stn_jax.warp.transforms import Transform


class Intermediates(NamedTuple):
    """What a network did on the way to its logits."""

    # [B, 2, 3], from warped to unwarped positions, or what the family of transforms has in its
    # place (projective: [B, 3, 3]; tps: [B, K, K, 2]); None: no transformer
    theta: jax.Array | None
    warped: jax.Array  # [B, H', W', C]: what the transformer gave; without one, the input


class Stack(nn.Module):
    """Blocks, one after the other, and a last module behind them."""

    blocks: Sequence[nn.Module]
    last: nn.Module

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return call(self.last, call_in_turn(self.blocks, x, train), train)


class Network(nn.Module):
    """A classifier with, perhaps, a spatial transformer in it.

    What is warped is the map after ``warp_depth`` blocks (0: the input). What the localization
    network looks at is the map after ``look_depth`` blocks, computed by the classifier's own
    layers, which are thereby shared: STN-CX is (X, X), STN-SLX is (0, X).

    Attributes:
      blocks: modules from map to map, called as ``block(x, train=...)`` or, where they have no such
        argument, ``block(x)``.
      head: module called alike, from the last map to logits.
      transformer: None for a plain classifier.
      warp_depth, look_depth: see above.
    """

    blocks: Sequence[nn.Module]
    head: nn.Module
    transformer: SpatialTransformer | None = None
    warp_depth: int = 0
    look_depth: int = 0

    # With positional flags, so that nn.remat can be told that they are static.
    def __call__(
        self, images: jax.Array, train: bool = False, return_details: bool = False
    ) -> jax.Array | tuple[jax.Array, Intermediates]:
        """Classifies a batch.

        ``nn.remat`` and ``nn.jit`` take static arguments by their positions, of which ``self`` is
        0: ``nn.remat(Network, static_argnums=(2, 3))`` makes modules that are called with both
        flags, as ``network(images, True, False)``.

        Args:
          images: ``[B, H, W, C]``, normalised.
          train: whether dropout is on (it then needs ``rngs={"dropout": key}``).
          return_details: whether to return what the transformer did as well.

        Returns:
          Logits ``[B, classes]`` (``[B, positions, classes]`` for house numbers) in float32 or,
          with return_details, these and :class:`Intermediates`.

        Raises:
          TypeError: the images are not floating point.
          ValueError: they have not four axes, or the depths do not fit the blocks.
        """
        if images.ndim != 4:
            raise ValueError(
                f"images has shape {images.shape}; expected [B, H, W, C]: one image is images[None]"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(
                f"images has type {images.dtype}; expected floating point: normalise it first"
            )
        if not 0 <= self.warp_depth <= self.look_depth <= len(self.blocks):
            raise ValueError(
                f"warp_depth is {self.warp_depth} and look_depth {self.look_depth}; expected "
                f"0 <= warp_depth <= look_depth <= {len(self.blocks)}, the number of blocks"
            )
        x = call_in_turn(self.blocks[: self.warp_depth], images, train)
        theta = None
        if self.transformer is not None:
            shared = self.blocks[self.warp_depth : self.look_depth]
            x, theta = self.transformer(
                x, features=lambda y: call_in_turn(shared, y, train), return_theta=True, train=train
            )
        logits = call(self.head, call_in_turn(self.blocks[self.warp_depth :], x, train), train)
        return (logits, Intermediates(theta, x)) if return_details else logits


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network of the study by its name: "cnn", or "stn-" with a kind and a depth.

    Attributes:
      kind: None (no transformer), "c" (warps the map that it looks at), "sl" (looks at shared
        layers, warps the input) or "dl" (looks at layers of its own, warps the input).
      depth: number of blocks before what the localization network looks at.
    """

    kind: str | None
    depth: int

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Reads "cnn", "stn-c0", "stn-sl1", "stn-dl2", ...; ValueError for anything else."""
        match = re.fullmatch(r"cnn|stn-(c|sl|dl)(\d{1,3})", str(name))
        if match is None:
            raise ValueError(
                f"variant is {name!r}; expected cnn, or stn-cX, stn-slX or stn-dlX with a depth X "
                "(stn-c0, stn-sl1, ...)"
            )
        return cls(match[1], int(match[2] or 0))


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """What a task asks of its networks (paper, Sections 3.1 and 3.2; the authors' code)."""

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


def _svhn(depth: int, dtype: Any, padding: str = "SAME") -> nn.Module:
    if depth:
        return DenseLocalization((32, 32), dtype)
    return ConvLocalization((32, 32), 5, 1, (32, 32), dtype, padding)


_svhn_legacy = functools.partial(_svhn, padding="VALID")


def _svhn_cropped(classes: int = 10, **options: Any) -> Classifier:
    return classifiers.svhn(classes, None, **options)


_PUBLISHED = {
    "rotated_mnist": _Recipe(classifiers.mnist, _dense, 1, "border"),
    "translated_mnist": _Recipe(classifiers.mnist, _conv, 2, "border"),
    "scaled_mnist": _Recipe(classifiers.mnist, _conv_scaled, 1, "border"),
    "svhn": _Recipe(classifiers.svhn, _svhn, 1, "zeros"),
    "svhn_cropped": _Recipe(_svhn_cropped, _svhn, 1, "zeros"),
}
_LEGACY = {
    "scaled_mnist": _Recipe(classifiers.mnist, _conv, 2, "border"),
    "svhn": _Recipe(classifiers.svhn, _svhn_legacy, 1, "zeros"),
    "svhn_cropped": _Recipe(_svhn_cropped, _svhn_legacy, 1, "zeros"),
}
_RECIPES = {"published": _PUBLISHED, "legacy": _PUBLISHED | _LEGACY}
RECIPES = tuple(_RECIPES)


def create_model(
    task: str,
    variant: str,
    *,
    recipe: str = "published",
    classes: int | None = None,
    width: float = 1.0,
    dropout: float = 1.0,
    iterations: int = 1,
    window: float = 1.0,
    mode: str = "bilinear",
    padding_mode: str | None = None,
    align_corners: bool = True,
    downsample: int | None = None,
    localization: nn.Module | None = None,
    transform: Transform | str = "affine",
    dtype: Any = None,
) -> Network:
    """Makes one of the study's networks.

    Args:
      task: "rotated_mnist", "translated_mnist", "scaled_mnist", "svhn" (whole house numbers) or
        "svhn_cropped" (single digits).
      variant: "cnn", "stn-cX", "stn-slX" or "stn-dlX" for any depth X up to the number of blocks
        (2 for MNIST, 8 for SVHN).
      recipe: "published", the networks of the authors' code; or "legacy", what this package made
        before: on scaled_mnist the warped array had half the input's sides and the localization
        network at depth 0 did not halve its input; on svhn and svhn_cropped the one at depth 0
        had convolutions without padding. All other networks are the same.
      classes: number of classes; the task's own where None.
      width: factor on the classifier's channels and units.
      dropout: factor on the shares that it drops in training (0.5 in most layers for SVHN, 0 for
        MNIST); narrow networks do better with less.
      iterations: how many times the transformer looks.
      window: what share of each side, in the middle, the warped array shows before the transformer
        has learned to look elsewhere. See :class:`SpatialTransformer`.
      mode, padding_mode, align_corners: of the warp. The defaults are the study's: bilinear,
        "border" for MNIST and "zeros" for SVHN, corners aligned.
      downsample: the warped array's sides are divided by this; the task's own where None.
      localization: a localization network in place of the task's own, from ``[B, H, W, C]`` to
        ``[B, n]``; it is told ``train=`` where it has such an argument.
      transform: what the transformer may do: "rotation", "attention", "similarity", "affine" (the
        study's), "projective" or "tps", or an object of :mod:`stn_jax.warp.transforms`.
      dtype: type to compute in, such as bfloat16; parameters and thetas stay float32.

    Returns:
      A :class:`Network`; ``model.apply(variables, images)`` gives logits.

    Raises:
      ValueError: task, variant, recipe or transform is unknown, width or dropout is out of range,
        the depth is greater than the number of blocks, or the transform cannot be iterated.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stn_jax
      >>> model = stn_jax.create_model("rotated_mnist", "stn-sl1")
      >>> images = jnp.zeros((2, 28, 28, 1))
      >>> variables = model.init(jax.random.key(0), images)
      >>> logits, details = model.apply(variables, images, return_details=True)
      >>> logits.shape, details.theta.shape, details.warped.shape
      ((2, 10), (2, 2, 3), (2, 28, 28, 1))
    """
    if task not in _PUBLISHED:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(_PUBLISHED)}")
    if recipe not in _RECIPES:
        raise ValueError(f"recipe is {recipe!r}; expected one of {', '.join(_RECIPES)}")
    transforms.resolve(transform)
    if not 0 < width <= 100:
        raise ValueError(f"width is {width}; expected a factor of more than 0 and at most 100")
    if not 0 <= dropout < 2:
        raise ValueError(f"dropout is {dropout}; expected a factor from 0 to less than 2")
    made = _RECIPES[recipe][task]
    kind, depth = dataclasses.astuple(Variant.parse(variant))
    counted = {} if classes is None else {"classes": classes}
    classifier = made.classifier(width=width, dtype=dtype, **counted)
    blocks, head = classifier.with_dropout(dropout)
    if depth > len(blocks):
        raise ValueError(
            f"variant is {variant!r}, but the classifier of {task} has {len(blocks)} blocks; "
            f"expected a depth from 0 to {len(blocks)}"
        )
    if kind is None:
        return Network(blocks, head)
    localization = localization or made.localization(depth, dtype)
    if kind == "dl" and depth:
        # A network that looks at layers of its own is one with a deeper localization network.
        localization = Stack(tuple(block.clone() for block in blocks[:depth]), localization)
    transformer = SpatialTransformer(
        localization,
        downsample=made.downsample if downsample is None else downsample,
        iterations=iterations,
        window=window,
        mode=mode,
        padding_mode=padding_mode or made.padding_mode,
        align_corners=align_corners,
        transform=transform,
    )
    transformer.family()  # refuses what does not fit together now, not at the first call
    return Network(
        blocks,
        head,
        transformer,
        warp_depth=depth if kind == "c" else 0,
        look_depth=0 if kind == "dl" else depth,
    )
