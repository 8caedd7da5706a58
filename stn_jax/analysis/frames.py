"""Where the maps that a network's transformers warp are in its image."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis.geometry import map_to_image
from stn_jax.analysis.network_equivariance import network_geometry
from stn_jax.models import Network
from stn_jax.models.transformer_network import Stack


def transformer_frames(model: Network, shape: Sequence[int]) -> list[np.ndarray]:
    """The theta from the coordinates of the map that each transformer warps to the image's.

    The image's coordinates are those of ``align_corners=False``, the map's those that its
    transformer uses. A transformer that follows another warps what that one returned, so its image
    is the one that the predecessor has aligned.

    Args:
      model: a network of blocks whose geometry is known, up to the last transformer.
      shape: the image's shape (H, W, C).

    Returns:
      A theta ``[2, 3]`` for each transformer, in their order.

    Raises:
      TypeError: as :func:`stn_jax.analysis.network_equivariance.network_geometry`.
    """

    def apply(images: jax.Array) -> Any:
        return model.init_with_output(jax.random.key(0), images, return_details=True)[0][1]

    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    details = jax.eval_shape(apply, image)
    outputs = iter([details.warped, *(warped for _, warped in details.further)])
    frames: list[np.ndarray] = []
    to_image, view, depth = np.eye(3), image, 0
    for group in model.placements():
        between = Network(model.blocks[depth : group[0].warp_depth], model.head)
        height, width = _map_shape(between, view)
        *_, geometry = network_geometry(between).values()
        to_image = to_image @ _square(map_to_image(geometry, view.shape[1:3], (height, width)))
        for placement in group:
            corners = np.ones(3)
            if placement.transformer.align_corners:
                corners[:2] = (width - 1) / width, (height - 1) / height
            frames.append((to_image * corners)[:2].astype(np.float32))
            output = next(outputs)
        channels = len(group) * output.shape[-1]
        view = jax.ShapeDtypeStruct((*output.shape[:-1], channels), output.dtype)
        depth = group[0].warp_depth
    return frames


def _map_shape(network: Network, image: jax.ShapeDtypeStruct) -> tuple[int, int]:
    """The spatial shape of the map after all blocks of a network."""

    def features(image: jax.Array) -> Any:
        return Stack(network.blocks, lambda x: x).init_with_output(jax.random.key(0), image)[0]

    height, width = jax.eval_shape(features, image).shape[1:3]
    return height, width


def _square(theta: np.ndarray) -> np.ndarray:
    return np.concatenate([theta, [[0, 0, 1]]])
