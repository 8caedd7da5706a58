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
from stn_jax.models.recipes import ANY_DATA, CLASSIFIERS, SETTINGS, Recipe
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


RECIPES = tuple(SETTINGS)


def create_model(
    task: str,
    variant: str,
    *,
    recipe: str = "published",
    classes: int | None = None,
    classifier: str | None = None,
    blocks: Sequence[Sequence[int]] | None = None,
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
        "svhn_cropped" (single digits); for any data "plain", "rotated", "translated", "scaled" or
        "affine", whose networks are the same.
      variant: "cnn", "stn-cX", "stn-slX" or "stn-dlX" for any depth X up to the number of blocks
        (2 for MNIST, 8 for SVHN). :func:`create_network` takes any blocks.
      recipe: "published", the networks of the authors' code; or "legacy", those of earlier versions
        of this package: on scaled_mnist the warped array had half the input's sides and the
        localization network at depth 0 did not halve its input; on svhn and svhn_cropped the one at
        depth 0 had convolutions without padding. All other networks are the same.
      classes: number of classes; None: the task's own.
      classifier: "small" (for images of 4 pixels a side or more), "mnist" (24) or "svhn" (16);
        None: the task's own, for any data "mnist".
        :func:`stn_jax.models.classifiers.fitting` chooses by size.
      blocks: a classifier by its blocks, each (kernel size, features, whether to pool by 2), see
        :func:`stn_jax.models.classifiers.of_blocks`.
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
    if recipe not in SETTINGS:
        raise ValueError(f"recipe is {recipe!r}; expected one of {', '.join(RECIPES)}")
    if task not in SETTINGS[recipe]:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(SETTINGS[recipe])}")
    transforms.resolve(transform)
    if not 0 < width <= 100:
        raise ValueError(f"width is {width}; expected a factor of more than 0 and at most 100")
    if not 0 <= dropout < 2:
        raise ValueError(f"dropout is {dropout}; expected a factor from 0 to less than 2")
    settings = SETTINGS[recipe][task]
    make = _classifier(task, settings, classifier, blocks)
    class_options = {} if classes is None else {"classes": classes}
    made = make(width=width, dtype=dtype, **class_options).with_dropout(dropout)
    depth = Variant.parse(variant).depth
    return create_network(
        made,
        variant,
        localization=localization or settings.localization(depth, dtype),
        downsample=settings.downsample if downsample is None else downsample,
        iterations=iterations,
        crop_fraction=crop_fraction if window is None else window,
        mode=mode,
        padding_mode=padding_mode or settings.padding_mode,
        align_corners=align_corners,
        transform=transform,
    )


def _classifier(
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


def create_network(
    classifier: Classifier,
    variant: str,
    *,
    localization: nn.Module | None = None,
    downsample: int = 1,
    iterations: int = 1,
    crop_fraction: float = 1.0,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    transform: Transform | str = "affine",
) -> Network:
    """Places a spatial transformer in a classifier of your own.

    Args:
      classifier: blocks and a head: Linen modules from map to map, and from the last map to logits,
        called as ``block(x)``, or ``block(x, train=...)`` if they take that argument.
      variant: the placement, by the study's names: "cnn" (no transformer), "stn-cX", "stn-slX" or
        "stn-dlX", where the map at depth X is the one after X blocks.
      localization: the localization network, from ``[B, H, W, C]`` to ``[B, n]``; None: two
        convolutions and dense layers at depth 0, dense layers deeper.
      downsample, iterations, crop_fraction, mode, padding_mode, align_corners, transform: as in
        :class:`SpatialTransformer`.

    Returns:
      A :class:`Network`.

    Raises:
      ValueError: there is no such variant, its depth is greater than the number of blocks, or the
        transform cannot be iterated.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from stn_jax.models import Classifier, create_network
      >>> blocks = [nn.Sequential([nn.Conv(8, (3, 3), 2), nn.relu]) for _ in range(3)]
      >>> head = nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(5)])
      >>> network = create_network(Classifier(blocks, head), "stn-sl2")
      >>> images = jnp.zeros((4, 32, 48, 3))
      >>> logits, variables = network.init_with_output(jax.random.key(0), images)
      >>> logits.shape
      (4, 5)
    """
    blocks, head = tuple(classifier.blocks), classifier.head
    kind, depth = dataclasses.astuple(Variant.parse(variant))
    if depth > len(blocks):
        raise ValueError(
            f"variant is {variant!r}, but the classifier has {len(blocks)} blocks; expected a "
            f"depth from 0 to {len(blocks)}"
        )
    if kind is None:
        return Network(blocks, head)
    if localization is None:
        localization = SETTINGS["published"][ANY_DATA[0]].localization(depth, None)
    if kind == "dl" and depth:
        # Separate layers are equivalent to a deeper localization network.
        localization = Stack(tuple(block.clone() for block in blocks[:depth]), localization)
    transformer = SpatialTransformer(
        localization,
        downsample=downsample,
        iterations=iterations,
        crop_fraction=crop_fraction,
        mode=mode,
        padding_mode=padding_mode,
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
