"""What samplers and families of transforms say about arguments that do not fit."""

import re

import numpy as np
import pytest
from families import ALL, SHAPE, each_of

from stn_jax.warp import affine_transform, grid_sample, transforms
from stn_jax.warp.transforms import Affine, Projective, Rotation, Similarity, ThinPlateSpline

IMAGE, GRID, THETA = np.zeros((4, 8, 3)), np.zeros((4, 8, 2)), np.eye(2, 3)


@pytest.mark.parametrize(
    ("image", "grid", "kind", "message"),
    [
        (np.zeros((4, 8, 3), np.uint8), GRID, TypeError, "image has type uint8; expected a float"),
        (np.zeros((4, 8, 3), bool), GRID, TypeError, "image has type bool; expected a floating"),
        (IMAGE, np.zeros((4, 8, 2), int), TypeError, "grid has type int32; expected a floating"),
        (IMAGE, np.float32(0), ValueError, "grid has shape (); expected [..., H_out, W_out, 2]"),
        (IMAGE, np.zeros((4, 8, 4)), ValueError, "grid has shape (4, 8, 4); expected [..., H_out"),
        (IMAGE, np.zeros((8, 2)), ValueError, "grid has shape (8, 2); expected [..., H_out, W_out"),
        (IMAGE, np.zeros((4, 8, 3)), ValueError, "grid has shape (4, 8, 3); expected"),
        (IMAGE[0], GRID, ValueError, "image has shape (8, 3); expected [..., H, W, C] (channels"),
        (
            IMAGE,
            np.zeros((2, 4, 8, 3)),
            ValueError,
            "image has shape (4, 8, 3); expected [..., D, H, W, C] (channels last)",
        ),
        (
            np.zeros((5, 4, 8, 3)),
            np.zeros((7, 4, 8, 2)),
            ValueError,
            "do not broadcast: (5,) against (7,)",
        ),
        (
            np.zeros((0, 8, 3)),
            GRID,
            ValueError,
            "image has shape (0, 8, 3); there is no pixel to sample from",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(image, grid, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        grid_sample(image, grid)


@pytest.mark.parametrize("fn", [grid_sample, affine_transform])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mode": "linear"}, "mode is 'linear'; expected one of nearest, bilinear, bicubic"),
        ({"mode": None}, "mode is None; expected one of nearest, bilinear, bicubic"),
        (
            {"padding_mode": "constant"},
            "padding_mode is 'constant'; expected one of zeros, border, reflection",
        ),
    ],
)
def test_unknown_modes_are_named_with_the_known_ones(fn, bad, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fn(IMAGE, GRID if fn is grid_sample else THETA, **bad)


def test_volumes_have_no_bicubic():
    with pytest.raises(ValueError, match="mode is 'bicubic', which does not support volumes"):
        affine_transform(np.zeros((3, 4, 8, 1)), np.eye(3, 4), mode="bicubic")


@pytest.mark.parametrize(
    ("image", "theta", "shape", "kind", "message"),
    [
        (IMAGE, np.eye(2, 3, dtype=int), None, TypeError, "theta has type int32; expected a float"),
        (IMAGE, np.eye(3), (4, 8), ValueError, "theta has shape (3, 3); expected [..., 2, 3] for"),
        (IMAGE, np.zeros(6), None, ValueError, "theta has shape (6,); expected [..., 2, 3] for"),
        (IMAGE[0], THETA, None, ValueError, "image has shape (8, 3); expected [..., H, W, C]"),
        (IMAGE, THETA, (4,), ValueError, "shape is (4,); expected the output's spatial shape"),
        (np.zeros((2, 0, 3)), THETA, (4, 8), ValueError, "there is no pixel to sample from"),
    ],
)
def test_affine_transform_names_the_wrong_argument(image, theta, shape, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        affine_transform(image, theta, shape)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: transforms.resolve("perspective"),
            ValueError,
            "transform is 'perspective'; expected one of rotation, translation, attention, "
            "similarity, affine, projective, tps",
        ),
        (lambda: transforms.resolve(None), TypeError, "transform is None; expected a Transform or"),
        (
            lambda: transforms.resolve("tps", 3),
            ValueError,
            "transform is 'tps', which is for images; for volumes use 'affine'",
        ),
        (
            lambda: transforms.resolve(Affine(3)),
            ValueError,
            "transform is Affine(num_spatial_dims=3), which is for volumes; for images use",
        ),
        (
            lambda: Affine(4),
            ValueError,
            "num_spatial_dims is 4; expected 2 (images) or 3 (volumes)",
        ),
        (lambda: Rotation(aspect=0), ValueError, "aspect is 0; expected width / height, positive"),
        (lambda: Similarity(aspect=-1.0), ValueError, "aspect is -1.0; expected width / height"),
        (lambda: ThinPlateSpline(1), ValueError, "points is 1; expected a whole number of 2 or"),
        (lambda: ThinPlateSpline(4.0), ValueError, "points is 4.0; expected a whole number of 2"),
        (
            lambda: ThinPlateSpline(smoothing=-0.1),
            ValueError,
            "smoothing is -0.1; expected 0 or more, and finite",
        ),
        (lambda: ThinPlateSpline(smoothing=float("nan")), ValueError, "smoothing is nan; expected"),
        (
            lambda: ThinPlateSpline().compose(np.zeros((4, 4, 2)), np.zeros((4, 4, 2))),
            ValueError,
            "the composition of 2 thin-plate splines is not a spline; use iterations=1",
        ),
        (lambda: Projective().compose(), ValueError, "compose needs at least one theta"),
        (
            lambda: Projective().compose(np.eye(3), np.eye(2, 3)),
            ValueError,
            "theta has shape (2, 3); expected [..., 3, 3]",
        ),
        (
            lambda: Projective().as_affine(np.eye(2, 3)),
            ValueError,
            "theta has shape (2, 3); expected [..., 3, 3]",
        ),
        (
            lambda: ThinPlateSpline().grid_of(np.zeros((3, 3, 2)), (4, 4)),
            ValueError,
            "theta has shape (3, 3, 2); expected [..., 4, 4, 2]",
        ),
        (
            lambda: Projective().grid_of(np.eye(3, dtype=int), (4, 4)),
            TypeError,
            "theta has type int32; expected a floating-point array: cast it to float32",
        ),
    ],
)
def test_errors_name_the_wrong_argument(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()


@each_of(ALL)
def test_parameters_and_shapes_that_do_not_fit_are_named(family):
    shape = SHAPE[family.num_spatial_dims]
    for params in (np.zeros(family.size + 1), np.zeros((5, family.size - 1)), np.float32(0)):
        message = f"params has shape {params.shape}; expected [..., {family.size}]"
        with pytest.raises(ValueError, match=re.escape(message)):
            family.grid(params, shape)
    with pytest.raises(TypeError, match="params has type int32; expected a floating-point array"):
        family.theta(np.zeros(family.size, np.int32))
    with pytest.raises(ValueError, match=r"shape is \(4,\); expected the output's spatial shape"):
        family.grid(np.zeros(family.size), (4,))
    with pytest.raises(TypeError, match="shape is 4; expected a tuple of ints"):
        family.grid(np.zeros(family.size), 4)
