"""The recorded cases, and the functions jitted."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from record_operation_cases import FILE

import stn_jax

CASES = np.load(FILE)
IMAGE = CASES["image"]


def jitted(function):
    options = inspect.signature(function).parameters
    static = ("shape", "mode", "padding_mode", "align_corners", "inverse", "antialias")
    return jax.jit(function, static_argnames=[name for name in static if name in options])


warp_affine, warp_perspective = jitted(stn_jax.warp_affine), jitted(stn_jax.warp_perspective)
remap, crop_and_resize = jitted(stn_jax.remap), jitted(stn_jax.crop_and_resize)


def f32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def assert_close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
