"""The study's networks by name, and spatial transformers placed in any classifier."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from stn_jax.models.classifiers import Classifier
from stn_jax.models.recipes import ANY_DATA, SETTINGS, classifier_of
from stn_jax.models.transformer import SpatialTransformer
from stn_jax.models.transformer_network import Network, Stack
from stn_jax.models.variants import Variant
from stn_jax.warp import transforms
from stn_jax.warp.transforms import Transform

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
    deterministic: bool = False,
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
        they warp: "stn-c0+c1", "stn-sl1+c1"; "stn-c0x2" has two in parallel, whose outputs are
        stacked along the channels. :func:`create_network` takes any blocks.
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
      transform: family of transforms: "rotation", "translation", "attention", "similarity",
        "affine" (the study's), "projective" or "tps", or an object of
        :mod:`stn_jax.warp.transforms`.
      aspect: width / height of the images, or (width - 1) / (height - 1) with align_corners, for
        transforms "rotation" and "similarity" given by name; without it they shear oblong images.
      deterministic: of the warps' gradients, as in :class:`SpatialTransformer`.
      dtype: type to compute in, such as bfloat16; parameters and thetas stay float32.
      window: earlier name of crop_fraction, as in stored weights.

    Returns:
      A :class:`Network`; ``model.apply(variables, images)`` returns logits.

    Raises:
      ValueError: task, variant, recipe or transform is unknown, width, dropout or classes is out of
        range, the depth is greater than the number of blocks, or the transform cannot be iterated.

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
    if classes is not None and classes < 1:
        raise ValueError(f"classes is {classes}; expected 1 or more")
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
        deterministic=deterministic,
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
    deterministic: bool = False,
) -> Network:
    """Places a spatial transformer in a classifier of your own.

    Args:
      classifier: blocks and a head: Linen modules from map to map, and from the last map to logits,
        called as ``block(x)``, or ``block(x, train=...)`` if they take that argument.
      variant: the placement, by the study's names: "cnn" (no transformer), "stn-cX", "stn-slX" or
        "stn-dlX", where the map at depth X is the one after X blocks; several are joined by "+",
        and "stn-cXx2" has two in parallel.
      localization: the localization network, from ``[B, H, W, C]`` to ``[B, n]``; None: two
        convolutions and dense layers at depth 0, dense layers deeper.
      downsample, iterations, crop_fraction, mode, padding_mode, align_corners: as in
        :class:`SpatialTransformer`.
      transform, deterministic: likewise.

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
        deterministic=deterministic,
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
    # The first transformers set the size, the others keep it.
    size: dict[str, Any] = {"downsample": downsample, "crop_fraction": crop_fraction}
    transformers: list[SpatialTransformer] = []
    depths: list[tuple[int, int]] = []
    parts = Variant.parse_all(variant)
    for part in parts:
        if part.kind is None:
            return Network(blocks, classifier.head)
        if part.depth > len(blocks):
            raise ValueError(
                f"variant is {variant!r}, but the classifier has {len(blocks)} blocks; expected a "
                f"depth from 0 to {len(blocks)}"
            )
        for _ in range(part.count):  # each with a localization network of its own
            network = localization(part.depth)
            if isinstance(network, nn.Module):  # one that is given may serve several transformers
                network = network.clone()
            if part.kind == "dl" and part.depth:
                # Separate layers are equivalent to a deeper localization network.
                network = Stack(tuple(block.clone() for block in blocks[: part.depth]), network)
            transformers.append(SpatialTransformer(network, **size, **options))
            transformers[-1].family()  # raises errors about incompatible options early
            depths.append((part.warp_depth, part.localization_depth))
        size = {}
    counts = tuple(part.count for part in parts)
    return Network(
        blocks,
        classifier.head,
        transformers[0],
        *depths[0],
        further_transformers=tuple(transformers[1:]),
        further_depths=tuple(depths[1:]),
        parallel=counts if max(counts) > 1 else (),
    )
