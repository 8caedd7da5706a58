"""Families of transforms, and what their tests share."""

import functools

import jax
import numpy as np
import pytest

from stn_jax.warp.transforms import (
    FAMILIES,
    Affine,
    Projective,
    Rotation,
    Similarity,
    ThinPlateSpline,
)

PLANAR = [family() for family in FAMILIES.values()]
ALL = [
    *PLANAR,
    Rotation(aspect=1.5),
    Similarity(aspect=0.5),
    Affine(num_spatial_dims=3),
    ThinPlateSpline(points=3, smoothing=0.1),
]
MATRICES = [family for family in ALL if family.composable]
AFFINE = [family for family in MATRICES if family != Projective()]
QUICK = {Rotation(aspect=1.5), Affine(num_spatial_dims=3), Projective(), ThinPlateSpline()}
SHAPE = {2: (4, 6), 3: (2, 4, 6)}

close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
exact = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)  # in float64


@functools.cache
def jitted(family, method="grid"):
    """One program compiles faster than its operations one by one."""
    static = ("shape", "align_corners") if method.startswith("grid") else ()
    return jax.jit(getattr(family, method), static_argnames=static)


def each_of(families):
    """Of those of one kind, whose code is the same, the quick run takes one."""
    cases = [
        pytest.param(family, id=str(family), marks=() if family in QUICK else pytest.mark.slow)
        for family in families
    ]
    return pytest.mark.parametrize("family", cases)


def random_params(family, *lead, seed=0, reach=0.3):
    return np.random.default_rng(seed).uniform(-reach, reach, (*lead, family.size))


def pixel_centers(shape, align_corners):
    """[*shape, rank] of (x, y[, z]), from the definition."""
    axes = [
        np.linspace(-1, 1, size) if align_corners else (np.arange(size) + 0.5) * 2 / size - 1
        for size in shape
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)


def apply_matrix(theta, positions):
    """Positions [..., rank] transformed by a matrix, in homogeneous coordinates."""
    theta = np.asarray(theta, np.float64)
    moved = np.append(positions, np.ones((*positions.shape[:-1], 1)), -1) @ theta.T
    rank = positions.shape[-1]
    return moved if len(theta) == rank else moved[..., :rank] / moved[..., rank:]
