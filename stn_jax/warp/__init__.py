"""Geometry and resampling as pure functions of arrays. Needs jax and nothing else."""

from stn_jax.warp import affine, transforms
from stn_jax.warp.grid import affine_grid, normalized_to_pixel, pixel_to_normalized
from stn_jax.warp.sample import affine_transform, grid_sample

__all__ = [
    "affine",
    "affine_grid",
    "affine_transform",
    "grid_sample",
    "normalized_to_pixel",
    "pixel_to_normalized",
    "transforms",
]
