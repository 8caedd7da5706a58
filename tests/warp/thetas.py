"""Thetas for tests, and the compiled functions that they are given to."""

import functools
import types

import jax
import numpy as np
from hypothesis import settings

from stn_jax.warp import (
    affine,
    affine_grid,
    affine_transform,
)

# One program compiles faster than its operations one by one.
BUILDERS = ("rotation", "translation", "scaling", "shearing", "from_parameters")
READERS = ("angle", "scale", "shift", "shear", "decompose")
jitted = types.SimpleNamespace(
    **{name: jax.jit(getattr(affine, name)) for name in (*BUILDERS, *READERS, "compose", "invert")},
    grid=jax.jit(affine_grid, static_argnames=("shape", "align_corners")),
    transform=jax.jit(
        affine_transform, static_argnames=("shape", "mode", "padding_mode", "align_corners")
    ),
)

close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
some = settings(deadline=None, max_examples=30, derandomize=True)


def square(theta):
    """The matrix of homogeneous coordinates, in float64."""
    theta = np.asarray(theta, np.float64)
    dims = theta.shape[-2]
    last = np.broadcast_to(np.eye(dims + 1)[-1:], (*theta.shape[:-2], 1, dims + 1))
    return np.concatenate([theta, last], axis=-2)


def random_thetas(*lead, num_spatial_dims=2, seed=0):
    """Thetas that are far from singular, some of them mirrored."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(-0.3, 0.3, (*lead, num_spatial_dims, num_spatial_dims + 1))
    signs = rng.choice([-1, 1], (*lead, num_spatial_dims, 1))
    return np.float32((np.eye(num_spatial_dims, num_spatial_dims + 1) + noise) * signs)
