"""Multi-scale deformable attention."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.sample import grid_sample


@compiled("values", "locations", "weights")
def multi_scale_deformable_attention(
    values: Sequence[ArrayLike],
    locations: ArrayLike,
    weights: ArrayLike,
    *,
    deterministic: bool = False,
) -> jax.Array:
    """Samples feature maps of several levels at each query's points; returns weighted sums.

    The same as Deformable DETR's CUDA kernel and ``multi_scale_deformable_attn_pytorch``: the part
    between the value projection and the output projection.

    Convention
        Locations are (x, y); 0 and 1 are the outer edges of a level's first and last pixel,
        whatever its size. Samples are bilinear, with zeros outside.

    Args:
      values: L arrays ``[B, H_l, W_l, heads, C]``, one per level, of the same floating-point type.
      locations: ``[B, Q, heads, L, P, 2]``, floating point: P points on each level.
      weights: ``[B, Q, heads, L, P]``, floating point; usually a softmax over L * P.
      deterministic: as in :func:`stn_jax.grid_sample`.

    Returns:
      ``[B, Q, heads * C]`` in the values' type, summed in float32 or wider.

    Raises:
      TypeError: an argument is not floating point.
      ValueError: the shapes do not match.

    References:
      Zhu et al., "Deformable DETR: Deformable transformers for end-to-end object detection", ICLR
      2021, Eq. 3.
    """
    maps = [validation.floating("values", value) for value in values]
    locations = validation.floating("locations", locations)
    weights = validation.floating("weights", weights)
    _check(maps, locations, weights)
    batch, queries, heads = weights.shape[:3]
    channels = maps[0].shape[-1]
    dtype = validation.wide(maps[0].dtype, weights.dtype)
    grid = 2 * jnp.moveaxis(locations.astype(validation.wide(locations.dtype)), 2, 1) - 1
    weights = jnp.moveaxis(weights.astype(dtype), 2, 1)[..., None]  # [B, heads, Q, L, P, 1]
    total = jnp.zeros((batch, heads, queries, channels), dtype)
    for level, value in enumerate(maps):
        samples = grid_sample(
            jnp.moveaxis(value, 3, 1), grid[..., level, :, :], deterministic=deterministic
        )
        total = total + (samples.astype(dtype) * weights[..., level, :, :]).sum(-2)
    found = jnp.moveaxis(total, 1, 2).reshape(batch, queries, heads * channels)
    return found.astype(maps[0].dtype)


def _check(maps: Sequence[jax.Array], locations: jax.Array, weights: jax.Array) -> None:
    if weights.ndim != 5 or locations.shape != (*weights.shape, 2):
        raise ValueError(
            f"locations has shape {locations.shape} and weights {weights.shape}; expected "
            "[B, Q, heads, L, P, 2] and [B, Q, heads, L, P]"
        )
    batch, _, heads, levels, _ = weights.shape
    if len(maps) != levels or not maps:
        raise ValueError(
            f"values has {len(maps)} levels and locations {levels}; expected the same number, 1 or "
            "more"
        )
    for level, value in enumerate(maps):
        fits = value.ndim == 5 and (value.shape[0], value.shape[3]) == (batch, heads)
        if not fits or value.shape[-1] != maps[0].shape[-1] or value.dtype != maps[0].dtype:
            raise ValueError(
                f"values[{level}] is {value.dtype}{list(value.shape)}; expected "
                f"[{batch}, H_l, W_l, {heads}, C], with the same C and type at all levels"
            )
