"""Hand-made edge filters and a letter W for Figure 1 of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def edge_maps(images: ArrayLike) -> jax.Array:
    """Feature maps of a Sobel filter rotated by 0, 90, 180 and 270 degrees, with ReLU.

    Args:
      images: ``[B, H, W, 1]``.

    Returns:
      ``[B, H - 2, W - 2, 4]``, the image's slope towards the right, the top, the left and the
      bottom, or 0 where it is negative. Rotating the image by 90 degrees counter-clockwise rotates
      the maps and moves each to the next channel.
    """
    right = np.outer([1, 2, 1], [-1, 0, 1]).astype(np.float32) / 8
    bank = np.stack([np.rot90(right, turns) for turns in range(4)], -1)[:, :, None]
    return jax.nn.relu(
        jax.lax.conv_general_dilated(
            jnp.asarray(images, jnp.float32),
            jnp.asarray(bank),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
    )


def letter_w(side: int = 64) -> np.ndarray:
    """The letter W, white on black, ``[side, side, 1]`` in [0, 1]; upside down it is an M."""
    corners = np.array([(-0.76, -0.4), (-0.38, 0.4), (0, -0.4), (0.38, 0.4), (0.76, -0.4)])
    axis = (2 * np.arange(side) + 1) / side - 1
    points = np.stack(np.meshgrid(axis, axis), -1)[..., None, :]
    start, along = corners[:-1], np.diff(corners, axis=0)
    t = np.clip(((points - start) * along).sum(-1) / (along**2).sum(-1), 0, 1)
    distance = np.linalg.norm(points - start - t[..., None] * along, axis=-1).min(-1)
    # Strokes of half-width 0.09, with edges two pixels wide.
    return np.clip((0.09 - distance) * side / 4 + 0.5, 0, 1)[..., None].astype(np.float32)
