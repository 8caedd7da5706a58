"""Dense warps, with a position for every pixel: maps, optical flow, and occlusion.

Convention
    Positions and flows are (x, y) in pixels, or (x, y, z) in volumes: x along the width, y
    downwards; (0, 0) is the center of the first pixel.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.grid import pixel_to_normalized
from stn_jax.warp.products import lead_to
from stn_jax.warp.sample import grid_sample


@compiled("image", "positions")
def remap(
    image: ArrayLike,
    positions: ArrayLike,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
    deterministic: bool = False,
) -> jax.Array:
    """Samples an image at positions in pixels.

    The counterpart of OpenCV's ``remap`` (which rounds positions to 1/32 pixel) and of
    ``kornia.geometry.remap``: :func:`stn_jax.grid_sample` with positions in pixels. Positions are
    exact to about 1e-7 of the image's size.

    Convention
        Positions are (x, y) or (x, y, z); (0, 0) is the center of the first pixel.

    Args:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point.
      positions: ``[..., H_out, W_out, 2]`` of (x, y), or ``[..., D_out, H_out, W_out, 3]`` of
        (x, y, z), floating point; leading axes broadcast against the image's.
      mode, padding_mode, fill, deterministic: as in :func:`stn_jax.grid_sample`.
      align_corners: whether "reflection" mirrors at the first and last pixel's centers (True) or
        outer edges (False); nothing else depends on it.

    Returns:
      ``[..., H_out, W_out, C]`` or ``[..., D_out, H_out, W_out, C]`` in the image's type.

    Raises:
      TypeError, ValueError: as :func:`stn_jax.grid_sample`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import stn_jax
      >>> image = jnp.arange(4.0).reshape(1, 4, 1)
      >>> stn_jax.remap(image, jnp.array([[[2.0, 0.0], [0.5, 0.0]]]))[0, :, 0].tolist()
      [2.0, 0.5]
    """
    positions = validation.positions("positions", positions)
    dims = positions.shape[-1]
    image = validation.image(image, dims)
    positions = positions.astype(validation.wide(positions.dtype))
    corners = bool(align_corners) and padding_mode == "reflection"
    axes = [
        pixel_to_normalized(positions[..., k], image.shape[-2 - k], align_corners=corners)
        for k in range(dims)
    ]
    return grid_sample(
        image,
        jnp.stack(axes, -1),
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        align_corners=corners,
        deterministic=deterministic,
    )


@compiled("image", "flow")
def flow_warp(
    image: ArrayLike,
    flow: ArrayLike,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
    deterministic: bool = False,
) -> jax.Array:
    """Warps an image by an optical flow: the result at p is the image at p + flow(p).

    With the flow from frame 1 to frame 2, and frame 2 as the image, the result is frame 1 except
    where it is occluded in frame 2 (:func:`occlusion_mask`).

    Args:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point.
      flow: ``[..., H_out, W_out, 2]`` of (dx, dy), or ``[..., D_out, H_out, W_out, 3]`` of
        (dx, dy, dz), in pixels, floating point; leading axes broadcast against the image's.
      mode, padding_mode, fill, align_corners, deterministic: as in :func:`remap`.

    Returns:
      ``[..., H_out, W_out, C]`` or ``[..., D_out, H_out, W_out, C]`` in the image's type.

    Raises:
      TypeError, ValueError: as :func:`remap`.

    Examples:
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
        deterministic=deterministic,
    )


@compiled("flow", "backward_flow")
def occlusion_mask(
    flow: ArrayLike, backward_flow: ArrayLike, *, relative: float = 0.01, absolute: float = 0.5
) -> jax.Array:
    """The pixels of the first frame that are occluded in the second, by forward-backward check.

    A pixel p is occluded if ``|f + b|^2 > relative * (|f|^2 + |b|^2) + absolute``, where f is the
    flow at p and b the backward flow at p + f; or if p + f is outside the image or NaN.

    Args:
      flow: ``[..., H, W, 2]`` of (dx, dy), or ``[..., D, H, W, 3]`` of (dx, dy, dz), from the first
        frame to the second, in pixels.
      backward_flow: from the second frame to the first, of the same spatial shape; leading axes
        broadcast.
      relative: tolerance relative to the squared lengths.
      absolute: absolute tolerance, in squared pixels.

    Returns:
      bool ``[..., H, W]`` or ``[..., D, H, W]``, True where occluded.

    Raises:
      TypeError: a flow is not floating point.
      ValueError: the flows' shapes do not match.

    References:
      Sundaram, Brox and Keutzer, "Dense point trajectories by GPU-accelerated large displacement
      optical flow", ECCV 2010, Eq. 5; the constants are those of Meister, Hur and Roth, "UnFlow",
      AAAI 2018.
    """
    forward = validation.positions("flow", flow)
    backward = validation.positions("backward_flow", backward_flow)
    dims = forward.shape[-1]
    spatial = forward.shape[-1 - dims :], backward.shape[-1 - dims :]
    if spatial[0] != spatial[1]:
        raise ValueError(
            f"flow has shape {forward.shape} and backward_flow {backward.shape}; expected the same "
            "spatial shape"
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
    """Each pixel's position plus its flow, in float32 or wider."""
    dims = flow.shape[-1]
    flow = flow.astype(validation.wide(flow.dtype))
    sizes = flow.shape[-1 - dims : -1]
    axes = [
        flow[..., k]
        + lead_to(
            jnp.expand_dims(
                jnp.arange(sizes[dims - 1 - k], dtype=flow.dtype),
                [a for a in range(dims) if a != dims - 1 - k],
            ),
            flow.ndim - 1,
        )
        for k in range(dims)
    ]
    return jnp.stack(axes, -1)
