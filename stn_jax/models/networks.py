"""Networks: classifiers with a spatial transformer, and the study's networks by name."""

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
from stn_jax.models.submodules import call, call_sequence
from stn_jax.models.transformer import SpatialTransformer
from stn_jax.warp import transforms
from stn_jax.warp.transforms import Transform


class Intermediates(NamedTuple):
    """Intermediate results of a network's forward pass."""

    # [B, 2, 3], maps output to input coordinates; other shapes for other families of transforms
    # (projective: [B, 3, 3]; tps: [B, K, K, 2]); None without a transformer
    theta: jax.Array | None
    warped: jax.Array  # [B, H', W', C]: the transformer's output; without one, the input


class Stack(nn.Module):
    """Blocks in sequence, followed by a last module."""

    blocks: Sequence[nn.Module]
    last: nn.Module

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return call(self.last, call_sequence(self.blocks, x, train), train)


class Network(nn.Module):
    """A classifier, optionally with a spatial transformer.

    The transformer warps the map after ``warp_depth`` blocks (0: the input). The localization
    network reads the map after ``localization_depth`` blocks, computed by the classifier's own
    layers, which are thereby shared: STN-CX is (X, X), STN-SLX is (0, X).

    Attributes:
      blocks: modules from map to map, called as ``block(x, train=...)``, or ``block(x)`` if they
        take no such argument.
      head: module called in the same way, from the last map to logits.
      transformer: None for a plain classifier.
      warp_depth, localization_depth: see above.
    """

    blocks: Sequence[nn.Module]
    head: nn.Module
    transformer: SpatialTransformer | None = None
    warp_depth: int = 0
    localization_depth: int = 0

    # With positional flags, so that nn.remat can be told that they are static.
    def __call__(
        self, images: jax.Array, train: bool = False, return_details: bool = False
    ) -> jax.Array | tuple[jax.Array, Intermediates]:
        """Classifies a batch.

        ``nn.remat`` and ``nn.jit`` take static arguments by position, where ``self`` is 0: modules
        of ``nn.remat(Network, static_argnums=(2, 3))`` are called with both flags, as
        ``network(images, True, False)``.

        Args:
          images: ``[B, H, W, C]``, normalized.
          train: whether dropout is on (it then needs ``rngs={"dropout": key}``).
          return_details: whether to return the intermediate results too.

        Returns:
          Logits ``[B, classes]`` (``[B, positions, classes]`` for house numbers) in float32; with
          return_details, logits and :class:`Intermediates`.

        Raises:
          TypeError: the images are not floating point.
          ValueError: they do not have four axes, or a depth is out of range.
        """
        if images.ndim != 4:
            raise ValueError(
                f"images has shape {images.shape}; expected [B, H, W, C]: one image is images[None]"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(
                f"images has type {images.dtype}; expected floating point: normalize it first"
            )
        if not 0 <= self.warp_depth <= self.localization_depth <= len(self.blocks):
            raise ValueError(
                f"warp_depth is {self.warp_depth} and localization_depth "
                f"{self.localization_depth}; expected 0 <= warp_depth <= localization_depth <= "
                f"{len(self.blocks)}, the number of blocks"
            )
        x = call_sequence(self.blocks[: self.warp_depth], images, train)
        theta = None
        if self.transformer is not None:
            shared = self.blocks[self.warp_depth : self.localization_depth]
            x, theta = self.transformer(
                x,
                features=lambda y: call_sequence(shared, y, train),
                return_theta=True,
                train=train,
            )
        logits = call(self.head, call_sequence(self.blocks[self.warp_depth :], x, train), train)
        return (logits, Intermediates(theta, x)) if return_details else logits


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network of the study by its name: "cnn", or "stn-" with a kind and a depth.

    Attributes:
      kind: None (no transformer), "c" (the localization network reads the map that is warped), "sl"
        (it reads shared layers' features, the input is warped) or "dl" (it has separate layers of
        its own, the input is warped).
      depth: number of blocks before the localization network's input.
    """

    kind: str | None
    depth: int

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Parses "cnn", "stn-c0", "stn-sl1", "stn-dl2", ...; ValueError for anything else."""
        match = re.fullmatch(r"cnn|stn-(c|sl|dl)(\d{1,3})", str(name))
        if match is None:
            raise ValueError(
                f"variant is {name!r}; expected cnn, or stn-cX, stn-slX or stn-dlX with a depth X "
                "(stn-c0, stn-sl1, ...)"
            )
        return cls(match[1], int(match[2] or 0))


@dataclasses.dataclass(frozen=True)
class _Recipe:
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
    crop_fraction: float = 1.0,
    mode: str = "bilinear",
    padding_mode: str | None = None,
    align_corners: bool = True,
    downsample: int | None = None,
    localization: nn.Module | None = None,
    transform: Transform | str = "affine",
    dtype: Any = None,
    window: float | None = None,
) -> Network:
    """Makes one of the study's networks.

    Args:
      task: "rotated_mnist", "translated_mnist", "scaled_mnist", "svhn" (whole house numbers) or
        "svhn_cropped" (single digits).
      variant: "cnn", "stn-cX", "stn-slX" or "stn-dlX" for any depth X up to the number of blocks
        (2 for MNIST, 8 for SVHN).
      recipe: "published", the networks of the authors' code; or "legacy", those of earlier versions
        of this package: on scaled_mnist the warped array had half the input's sides and the
        localization network at depth 0 did not halve its input; on svhn and svhn_cropped the one at
        depth 0 had convolutions without padding. All other networks are the same.
      classes: number of classes; None: the task's own.
      width: factor on the classifier's channels and units.
      dropout: factor on the classifier's dropout rates (0.5 in most layers for SVHN, 0 for MNIST);
        narrow networks do better with less.
      iterations: number of iterations of the transformer.
      crop_fraction: central fraction of each side that the untrained transformer shows, see
        :class:`SpatialTransformer`.
      mode, padding_mode, align_corners: of the warp. The defaults are the study's: bilinear,
        "border" for MNIST and "zeros" for SVHN, corners aligned.
      downsample: the warped array's sides are divided by this; None: the task's own.
      localization: replaces the task's localization network; maps ``[B, H, W, C]`` to ``[B, n]``,
        and is passed ``train=`` if it takes that argument.
      transform: family of transforms: "rotation", "attention", "similarity", "affine" (the
        study's), "projective" or "tps", or an object of :mod:`stn_jax.warp.transforms`.
      dtype: type to compute in, such as bfloat16; parameters and thetas stay float32.
      window: earlier name of crop_fraction, as in stored weights.

    Returns:
      A :class:`Network`; ``model.apply(variables, images)`` returns logits.

    Raises:
      ValueError: task, variant, recipe or transform is unknown, width or dropout is out of range,
        the depth is greater than the number of blocks, or the transform cannot be iterated.

    Examples:
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
    settings = _RECIPES[recipe][task]
    kind, depth = dataclasses.astuple(Variant.parse(variant))
    class_options = {} if classes is None else {"classes": classes}
    classifier = settings.classifier(width=width, dtype=dtype, **class_options)
    blocks, head = classifier.with_dropout(dropout)
    if depth > len(blocks):
        raise ValueError(
            f"variant is {variant!r}, but the classifier of {task} has {len(blocks)} blocks; "
            f"expected a depth from 0 to {len(blocks)}"
        )
    if kind is None:
        return Network(blocks, head)
    localization = localization or settings.localization(depth, dtype)
    if kind == "dl" and depth:
        # Separate layers are equivalent to a deeper localization network.
        localization = Stack(tuple(block.clone() for block in blocks[:depth]), localization)
    transformer = SpatialTransformer(
        localization,
        downsample=settings.downsample if downsample is None else downsample,
        iterations=iterations,
        crop_fraction=crop_fraction if window is None else window,
        mode=mode,
        padding_mode=padding_mode or settings.padding_mode,
        align_corners=align_corners,
        transform=transform,
    )
    transformer.family()  # raises errors about incompatible options early
    return Network(
        blocks,
        head,
        transformer,
        warp_depth=depth if kind == "c" else 0,
        localization_depth=0 if kind == "dl" else depth,
    )
