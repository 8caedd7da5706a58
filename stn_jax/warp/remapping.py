"""Warps by a position for every pixel: maps, optical flow, and what a flow hides.

Convention
    Positions and flows are (x, y) in pixels: x along the width, y downwards, (0, 0) the center of
    the first pixel. Volumes: (x, y, z).
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.grid import pixel_to_normalized
from stn_jax.warp.products import lead_to
from stn_jax.warp.sample import grid_sample


def remap(
    image: ArrayLike,
    positions: ArrayLike,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
) -> jax.Array:
    """Samples an image at positions in pixels.

    The counterpart of OpenCV's ``remap`` (which rounds positions to 1/32 pixel) and
    ``kornia.geometry.remap``; :func:`stn_jax.grid_sample` with positions as the module's
    convention has them. Positions are exact to about 1e-7 of the image's size.

    Args:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point.
      positions: ``[..., H_out, W_out, 2]`` of (x, y), or ``[..., D_out, H_out, W_out, 3]`` of
        (x, y, z), floating point; leading axes broadcast against the image's.
      mode, padding_mode, fill: as in :func:`stn_jax.grid_sample`.
      align_corners: whether "reflection" mirrors at the first and last pixel's centers (True) or
        outer edges (False); nothing else depends on it.

    Returns:
      ``[..., H_out, W_out, C]`` or ``[..., D_out, H_out, W_out, C]`` in the image's type.

    Raises:
      TypeError, ValueError: as :func:`stn_jax.grid_sample` does.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax
      >>> image = jnp.arange(4.0).reshape(1, 4, 1)
      >>> stn_jax.remap(image, jnp.array([[[2.0, 0.0], [0.5, 0.0]]]))[0, :, 0].tolist()
      [2.0, 0.5]
    """
    positions = validation.positions("positions", positions)
    rank = positions.shape[-1]
    image = validation.image(image, rank)
    positions = positions.astype(validation.wide(positions.dtype))
    corners = bool(align_corners) and padding_mode == "reflection"
    axes = [
        pixel_to_normalized(positions[..., k], image.shape[-2 - k], align_corners=corners)
        for k in range(rank)
    ]
    return grid_sample(
        image,
        jnp.stack(axes, -1),
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        align_corners=corners,
    )


def flow_warp(
    image: ArrayLike,
    flow: ArrayLike,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
) -> jax.Array:
    """Warps an image by an optical flow: the result at p is the image at p + flow(p).

    With the flow from frame 1 to frame 2 and frame 2 as the image, it gives frame 1 where nothing
    is hidden (:func:`occlusion_mask`).

    Args:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point.
      flow: ``[..., H, W, 2]`` of (dx, dy), or ``[..., D, H, W, 3]`` of (dx, dy, dz), in pixels,
        floating point; leading axes broadcast against the image's. Its spatial shape is the
        output's.
      mode, padding_mode, fill, align_corners: as in :func:`remap`.

    Returns:
      The warped image in the image's type.

    Raises:
      TypeError, ValueError: as :func:`remap` does.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax
      >>> image = jnp.arange(3.0).reshape(1, 3, 1)
      >>> stn_jax.flow_warp(image, jnp.full((1, 3, 2), jnp.array([1.0, 0.0])))[0, :, 0].tolist()
      [1.0, 2.0, 0.0]
    """
    positions = _pixels_moved(validation.positions("flow", flow))
    return remap(
        image,
        positions,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        align_corners=align_corners,
    )


def occlusion_mask(
    flow: ArrayLike, backward_flow: ArrayLike, *, relative: float = 0.01, absolute: float = 0.5
) -> jax.Array:
    """Where the target of a flow is hidden: the flow back does not lead home.

    A pixel p is occluded if ``|f + b|^2 > relative * (|f|^2 + |b|^2) + absolute``, where f is the
    flow at p and b the backward flow at p + f; or if p + f lies outside of the image, or is NaN.

    Args:
      flow: ``[..., H, W, 2]`` (or ``[..., D, H, W, 3]``) from the first frame to the second, in
        pixels; see the module's convention.
      backward_flow: from the second frame to the first; leading axes broadcast.
      relative: the tolerated part of the squared lengths.
      absolute: the tolerated error besides, in squared pixels.

    Returns:
      ``[..., H, W]``, True where occluded.

    Raises:
      TypeError: a flow is not floating point.
      ValueError: the flows' shapes do not fit.

    References:
      Sundaram, Brox, Keutzer, "Dense point trajectories by GPU-accelerated large displacement
      optical flow", ECCV 2010, Eq. 5; the constants are those of Meister, Hur, Roth, "UnFlow",
      AAAI 2018.
    """
    forward = validation.positions("flow", flow)
    backward = validation.positions("backward_flow", backward_flow)
    rank = forward.shape[-1]
    spatial = forward.shape[-1 - rank :], backward.shape[-1 - rank :]
    if spatial[0] != spatial[1]:
        raise ValueError(
            f"flow has shape {forward.shape} and backward_flow {backward.shape}; expected flows of "
            "one spatial shape"
        )
    moved = _pixels_moved(forward)
    back = remap(backward, moved, padding_mode="border").astype(moved.dtype)
    forward = lead_to(forward.astype(moved.dtype), back.ndim)
    error = jnp.square(forward + back).sum(-1)
    tolerated = relative * (jnp.square(forward).sum(-1) + jnp.square(back).sum(-1)) + absolute
    last = jnp.array(spatial[0][-2::-1], moved.dtype) - 1
    inside = ((moved >= 0) & (moved <= lead_to(last, moved.ndim))).all(-1)
    return ~((error <= tolerated) & lead_to(inside, error.ndim))


def _pixels_moved(flow: jax.Array) -> jax.Array:
    """Each pixel's own position plus its flow, in float32 or wider."""
    rank = flow.shape[-1]
    flow = flow.astype(validation.wide(flow.dtype))
    sizes = flow.shape[-1 - rank : -1]
    axes = [
        flow[..., k]
        + lead_to(
            jnp.expand_dims(
                jnp.arange(sizes[rank - 1 - k], dtype=flow.dtype),
                [a for a in range(rank) if a != rank - 1 - k],
            ),
            flow.ndim - 1,
        )
        for k in range(rank)
    ]
    return jnp.stack(axes, -1)
