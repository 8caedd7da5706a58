"""Spatial transformer networks in JAX and Flax.

Functions: :func:`affine_grid`, :func:`grid_sample` and :func:`affine_transform`, and built on the
same sampler, the operations of :mod:`stn_jax.warp`: warps by pixel matrices, maps and flows, crops,
splines, deformable attention. :mod:`stn_jax.augment` uses them for data augmentation. Flax modules:
:class:`SpatialTransformer` (for NNX, :class:`stn_jax.nnx.SpatialTransformer`), and the study's
networks, new (:func:`create_model`), trained (:func:`load_pretrained`), or from your own run
(:func:`load_run`). Affine matrices: :mod:`stn_jax.warp.affine`; families of transforms up to
thin-plate splines:
:mod:`stn_jax.warp.transforms`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stn_jax.warp import (
    affine_grid,
    affine_transform,
    crop_and_resize,
    flow_warp,
    grid_sample,
    map_coordinates,
    multi_scale_deformable_attention,
    occlusion_mask,
    on_uint8,
    remap,
    roi_align,
    spline_filter,
    warp_affine,
    warp_perspective,
)

if TYPE_CHECKING:
    from stn_jax.models import SpatialTransformer, create_model, create_network
    from stn_jax.pretrained import load_pretrained
    from stn_jax.training.restore import load_run

__version__ = "0.1.0"

__all__ = [
    "SpatialTransformer",
    "affine_grid",
    "affine_transform",
    "create_model",
    "create_network",
    "crop_and_resize",
    "flow_warp",
    "grid_sample",
    "load_pretrained",
    "load_run",
    "map_coordinates",
    "multi_scale_deformable_attention",
    "occlusion_mask",
    "on_uint8",
    "remap",
    "roi_align",
    "spline_filter",
    "warp_affine",
    "warp_perspective",
]


def __getattr__(name: str) -> Any:
    # Flax is imported on demand, so that the warps only need jax.
    if name in ("SpatialTransformer", "create_model", "create_network"):
        from stn_jax import models

        return getattr(models, name)
    if name == "nnx":
        return importlib.import_module("stn_jax.nnx")
    if name in ("pretrained", "load_pretrained"):
        pretrained = importlib.import_module("stn_jax.pretrained")
        return pretrained if name == "pretrained" else pretrained.load_pretrained
    if name == "load_run":
        return importlib.import_module("stn_jax.training.restore").load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
