"""Networks: classifiers with a spatial transformer, and the study's networks by name."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from stn_jax.models.classifiers import Classifier
from stn_jax.models.images import check_images
from stn_jax.models.recipes import ANY_DATA, SETTINGS, classifier_of
from stn_jax.models.submodules import call, call_sequence
from stn_jax.models.transformer import SpatialTransformer
from stn_jax.models.variants import Variant
from stn_jax.warp import transforms
from stn_jax.warp.transforms import Transform


class Intermediates(NamedTuple):
    """Intermediate results of a network's forward pass."""

    # [B, 2, 3], maps output to input coordinates; other shapes for other families of transforms
    # (projective: [B, 3, 3]; tps: [B, K, K, 2]); None without a transformer
    theta: jax.Array | None
    warped: jax.Array  # [B, H', W', C]: the transformer's output; without one, the input
    # Theta and output of each further transformer, in their order.
    further: tuple[tuple[jax.Array, jax.Array], ...] = ()


class Stack(nn.Module):
    """Blocks in sequence, followed by a last module."""

    blocks: Sequence[nn.Module]
    last: nn.Module

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return call(self.last, call_sequence(self.blocks, x, train), train)


class Network(nn.Module):
    """A classifier, optionally with spatial transformers.

    The transformer warps the map after ``warp_depth`` blocks (0: the input). The localization
    network reads the map after ``localization_depth`` blocks, computed by the classifier's own
    layers, which are thereby shared: STN-CX is (X, X), STN-SLX is (0, X). Further transformers
    follow at the same depth or deeper ones (ST-CNN Multi of Jaderberg et al. 2015, Section 4.2).

    Attributes:
      blocks: modules from map to map, called as ``block(x, train=...)``, or ``block(x)`` if they
        take no such argument.
      head: module called in the same way, from the last map to logits.
      transformer: None for a plain classifier.
      warp_depth, localization_depth: see above.
      further_transformers: transformers that follow the first one.
      further_depths: warp_depth and localization_depth of each of them, with warp depths in
        ascending order.
    """

    blocks: Sequence[nn.Module]
    head: nn.Module
    transformer: SpatialTransformer | None = None
    warp_depth: int = 0
    localization_depth: int = 0
    further_transformers: Sequence[SpatialTransformer] = ()
    further_depths: Sequence[tuple[int, int]] = ()

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
          ValueError: they do not have four axes or have another number of channels than the
            network, or a depth is out of range.
        """
        check_images(images, self.variables)
        x, depth = images, 0
        steps: list[Any] = []  # theta and output of each transformer
        for transformer, warp_depth, localization_depth in self._placements():
            x = call_sequence(self.blocks[depth:warp_depth], x, train)
            depth = warp_depth
            theta = None
            if transformer is not None:
                shared = self.blocks[warp_depth:localization_depth]
                x, theta = transformer(
                    x,
                    features=functools.partial(call_sequence, shared, train=train),
                    return_theta=True,
                    train=train,
                )
            steps.append((theta, x))
        logits = call(self.head, call_sequence(self.blocks[depth:], x, train), train)
        (theta, warped), *further = steps
        details = Intermediates(theta, warped, tuple(further))
        return (logits, details) if return_details else logits

    def _placements(self) -> list[tuple[SpatialTransformer | None, int, int]]:
        """The transformers, with the depths of what they warp and of what they read."""
        first = (self.transformer, self.warp_depth, self.localization_depth)
        pairs = zip(self.further_transformers, self.further_depths, strict=True)
        placements = [first, *((transformer, *depths) for transformer, depths in pairs)]
        least = 0
        for _, warp_depth, localization_depth in placements:
            if not least <= warp_depth <= localization_depth <= len(self.blocks):
                raise ValueError(
                    f"warp_depth is {warp_depth} and localization_depth {localization_depth}; "
                    f"expected {least} <= warp_depth <= localization_depth <= {len(self.blocks)}, "
                    "the number of blocks"
                )
            least = warp_depth
        return placements


def is_transformer(name: str) -> bool:
    """Whether a network's parameters of this name are a transformer's."""
    return name == "transformer" or name.startswith("further_transformers_")


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
    aspect: float = 1.0,
    dtype: Any = None,
    window: float | None = None,
) -> Network:
    """Makes one of the study's networks.

    Args:
      task: "rotated_mnist", "translated_mnist", "scaled_mnist", "svhn" (whole house numbers) or
        "svhn_cropped" (single digits); for any data "plain", "rotated", "translated", "scaled" or
        "affine", whose networks are the same.
      variant: "cnn", "stn-cX", "stn-slX" or "stn-dlX" for any depth X up to the number of blocks
        (2 for MNIST, 8 for SVHN); several transformers are joined by "+", in the order of what
        they warp: "stn-c0+c1", "stn-sl1+c1". :func:`create_network` takes any blocks.
      recipe: "published", the networks of the authors' code; or "legacy", those of earlier versions
        of this package: on scaled_mnist the warped array had half the input's sides and the
        localization network at depth 0 did not halve its input; on svhn and svhn_cropped the one at
        depth 0 had convolutions without padding. All other networks are the same.
      classes: number of classes; None: the task's own.
      classifier: "small" (for images of 4 pixels a side or more), "residual" (8), "mnist" (24) or
        "svhn" (16); None: the task's own, for any data "mnist". The function
        :func:`stn_jax.models.classifiers.fitting` chooses by size.
      blocks: a classifier by its blocks, each (kernel size, features, whether to pool by 2), see
        :func:`stn_jax.models.classifiers.of_blocks`.
      width: factor on the classifier's channels and units.
      dropout: factor on the classifier's dropout rates (0.5 in most layers for SVHN, 0 for MNIST);
        narrow networks do better with less.
      iterations: number of iterations of each transformer.
      crop_fraction: central fraction of each side that the untrained transformer shows, see
        :class:`SpatialTransformer`; of several, the first one.
      mode, padding_mode, align_corners: of the warp. The defaults are the study's: bilinear,
        "border" for MNIST and "zeros" for SVHN, corners aligned.
      downsample: the warped array's sides are divided by this; None: the task's own. Of several
        transformers, the first one's.
      localization: replaces the task's localization network; maps ``[B, H, W, C]`` to ``[B, n]``,
        and is passed ``train=`` if it takes that argument.
      transform: family of transforms: "rotation", "attention", "similarity", "affine" (the
        study's), "projective" or "tps", or an object of :mod:`stn_jax.warp.transforms`.
      aspect: width / height of the images, or (width - 1) / (height - 1) with align_corners, for
        transforms "rotation" and "similarity" given by name; without it they shear oblong images.
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
    make = classifier_of(task, settings, classifier, blocks)
    class_options = {} if classes is None else {"classes": classes}
    made = make(width=width, dtype=dtype, **class_options).with_dropout(dropout)
    return _placed(
        made,
        variant,
        lambda depth: localization or settings.localization(depth, dtype),
        downsample=settings.downsample if downsample is None else downsample,
        crop_fraction=crop_fraction if window is None else window,
        iterations=iterations,
        mode=mode,
        padding_mode=padding_mode or settings.padding_mode,
        align_corners=align_corners,
        transform=transforms.of_aspect(transform, aspect),
    )


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
        "stn-dlX", where the map at depth X is the one after X blocks; several are joined by "+".
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
    default = SETTINGS["published"][ANY_DATA[0]].localization
    return _placed(
        classifier,
        variant,
        lambda depth: localization or default(depth, None),
        downsample=downsample,
        crop_fraction=crop_fraction,
        iterations=iterations,
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
        transform=transform,
    )


def _placed(
    classifier: Classifier,
    variant: str,
    localization: Callable[[int], nn.Module],
    *,
    downsample: int,
    crop_fraction: float,
    **options: Any,
) -> Network:
    """A classifier with the transformers of a variant; ``localization`` is given their depths."""
    blocks = tuple(classifier.blocks)
    # The first transformer sets the size, the others keep it.
    size: dict[str, Any] = {"downsample": downsample, "crop_fraction": crop_fraction}
    transformers: list[SpatialTransformer] = []
    depths: list[tuple[int, int]] = []
    for part in Variant.parse_all(variant):
        kind, depth = part.kind, part.depth
        if kind is None:
            continue
        if depth > len(blocks):
            raise ValueError(
                f"variant is {variant!r}, but the classifier has {len(blocks)} blocks; expected a "
                f"depth from 0 to {len(blocks)}"
            )
        network = localization(depth)
        if isinstance(network, nn.Module):  # one that is given may serve several transformers
            network = network.clone()
        if kind == "dl" and depth:
            # Separate layers are equivalent to a deeper localization network.
            network = Stack(tuple(block.clone() for block in blocks[:depth]), network)
        transformers.append(SpatialTransformer(network, **size, **options))
        size = {}
        transformers[-1].family()  # raises errors about incompatible options early
        depths.append((part.warp_depth, part.localization_depth))
    if not transformers:
        return Network(blocks, classifier.head)
    return Network(
        blocks,
        classifier.head,
        transformers[0],
        *depths[0],
        further_transformers=tuple(transformers[1:]),
        further_depths=tuple(depths[1:]),
    )
