"""Geometry and resampling as pure functions of arrays. Needs only jax."""

from stn_jax.warp import affine, transforms
from stn_jax.warp.attention import multi_scale_deformable_attention
from stn_jax.warp.boxes import crop_and_resize, roi_align
from stn_jax.warp.grid import affine_grid, normalized_to_pixel, pixel_to_normalized
from stn_jax.warp.pixel_matrices import (
    pixel_matrix_to_theta,
    theta_to_pixel_matrix,
    warp_affine,
    warp_perspective,
)
from stn_jax.warp.remapping import flow_warp, occlusion_mask, remap
from stn_jax.warp.sample import affine_transform, grid_sample
from stn_jax.warp.splines import map_coordinates, spline_filter
from stn_jax.warp.uint8_images import on_uint8

__all__ = [
    "affine",
    "affine_grid",
    "affine_transform",
    "crop_and_resize",
    "flow_warp",
    "grid_sample",
    "map_coordinates",
    "multi_scale_deformable_attention",
    "normalized_to_pixel",
    "occlusion_mask",
    "on_uint8",
    "pixel_matrix_to_theta",
    "pixel_to_normalized",
    "remap",
    "roi_align",
    "spline_filter",
    "theta_to_pixel_matrix",
    "transforms",
    "warp_affine",
    "warp_perspective",
]
