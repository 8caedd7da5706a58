"""The equivariance of this project's networks, at all depths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.analysis.equivariance import EquivarianceError, equivariance_error
from stn_jax.analysis.geometry import Geometry
from stn_jax.models import ConvBlock, Network, ResidualBlock

# Blocks whose geometry is known.
_KNOWN = (ConvBlock, ResidualBlock)


def network_features(model: Network, variables: Any) -> Callable[[ArrayLike], dict[str, jax.Array]]:
    """The feature maps after each of a network's blocks, without a transformer.

    Blocks that read the outputs of several transformers in parallel are given as many copies of
    the map.

    Args:
      model: a network of convolutional blocks, so that images can have any size.
      variables: as ``model.apply`` takes them, ``{"params": ...}``.

    Returns:
      Jitted function from images ``[B, H, W, C]`` to maps by depth: "0" is the image, "1" the map
      after one block, and so on.
    """

    def maps(network: Network, images: jax.Array) -> dict[str, jax.Array]:
        out = {"0": images}
        for depth, block in enumerate(network.blocks, 1):
            x = jnp.tile(out[str(depth - 1)], network.copies(depth - 1))
            out[str(depth)] = block(x, train=False)
        return out

    return jax.jit(lambda images: model.apply(variables, jnp.asarray(images), method=maps))


def network_geometry(model: Network) -> dict[str, Geometry]:
    """The geometry of each depth of a network of convolutional and residual blocks.

    Computed block by block (Araujo, Norris and Sim 2019, "Computing Receptive Fields of
    Convolutional Neural Networks", Distill); independent of the image's size.

    Raises:
      TypeError: a block is of another kind; use :func:`measure_geometry`.
    """
    stride, offset, field = 1.0, 0.0, 1.0
    result = {"0": _square(stride, offset, field)}
    for depth, block in enumerate(model.blocks, 1):
        if not isinstance(block, _KNOWN):
            raise TypeError(
                f"block {depth} is a {type(block).__name__}; expected a ConvBlock or ResidualBlock"
            )
        (size, before), pool = block.receptive_field(), 2 if block.pool else 1
        # Center of the kernel, then of the pooled window.
        offset += stride * ((size - 1) / 2 - before + (pool - 1) / 2)
        field += stride * (size - 1 + pool - 1)
        stride *= pool
        result[str(depth)] = _square(stride, offset, field)
    return result


def _square(stride: float, offset: float, field: float) -> Geometry:
    return Geometry((stride,) * 2, (offset,) * 2, (field,) * 2)


def network_error(
    model: Network, variables: Any, images: ArrayLike, thetas: ArrayLike, **options: Any
) -> EquivarianceError:
    """:func:`equivariance_error` of a network's blocks, at all depths.

    Args:
      model, variables: see :func:`network_features`.
      images: ``[B, H, W, C]``, normalized. Deep maps of small images have little interior; digits
        on a uniform background can be padded.
      thetas: ``[K, 2, 3]``.
      **options: ``margin`` and ``padding_mode``.
    """
    known = all(isinstance(block, _KNOWN) for block in model.blocks)
    geometry = network_geometry(model) if known else None
    features = network_features(model, variables)
    return equivariance_error(features, images, thetas, geometry=geometry, **options)
