"""Calls of the native kernels, without what stn_jax.warp does around them."""

import jax
import numpy as np

from stn_jax.warp import native


def attributes(rank, theta, mode, padding_mode, align_corners):
    return {
        "rank": np.int64(rank),
        "theta": np.int64(theta),
        "mode": np.int64(native.MODES.index(mode)),
        "padding": np.int64(native.PADDING_MODES.index(padding_mode)),
        "align_corners": np.int64(align_corners),
    }


def lead_of(image, where, rank, theta):
    """The leading axes of the output."""
    image_lead, where_lead = image.shape[: -rank - 1], where.shape[: -2 if theta else -rank - 1]
    return np.broadcast_shapes(image_lead, where_lead)


def sample(image, where, out, **options):
    """The output [*L, *out, C] of an image and a theta or a grid."""
    rank, theta = options["rank"], options["theta"]
    shape = (*lead_of(image, where, rank, theta), *out, image.shape[-1])
    call = jax.ffi.ffi_call(native.SAMPLE, jax.ShapeDtypeStruct(shape, image.dtype))
    return call(image, where, **attributes(**options))


def adjoint(image, where, cotangent, wrt=(True, True), **options):
    """The gradients to the image and to where, those that are wanted."""
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (image, where)]
    results = [x for x, wanted in zip(like, wrt, strict=True) if wanted]
    flags = {
        name: np.int64(wanted)
        for name, wanted in zip(("image_gradient", "where_gradient"), wrt, strict=True)
    }
    call = jax.ffi.ffi_call(native.ADJOINT, results)
    return call(image, where, cotangent, **attributes(**options), **flags)
