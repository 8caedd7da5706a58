"""Grids and coordinates: closed forms, PyTorch's grids, bad input."""

import re
import warnings

import numpy as np
import pytest
from thetas import close, jitted, random_thetas

from stn_jax.warp import (
    affine,
    affine_grid,
    normalized_to_pixel,
    pixel_to_normalized,
)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 28])
def test_pixel_and_normalized_coordinates_undo_each_other(size, align_corners):
    rule = {"align_corners": align_corners}
    pixel = np.linspace(-3, size + 2, 20, dtype=np.float32)
    normalized = pixel_to_normalized(pixel, size, **rule)
    if size == 1 and align_corners:
        assert not normalized.any()  # all that a lone pixel has is its center
        return
    np.testing.assert_allclose(
        normalized_to_pixel(normalized, size, **rule), pixel, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("convert", [normalized_to_pixel, pixel_to_normalized])
def test_coordinates_keep_their_shape(convert):
    assert convert(np.zeros((2, 3, 4), np.float32), 5).shape == (2, 3, 4)
    assert convert(0.0, 5).shape == ()


def test_the_ends_of_an_axis_are_edges_or_centers():
    ends = np.float32([-1, 0, 1])
    close(normalized_to_pixel(ends, 5), [-0.5, 2, 4.5])
    close(normalized_to_pixel(ends, 5, align_corners=True), [0, 2, 4])
    close(pixel_to_normalized(np.float32([-0.5, 2, 4.5]), 5), ends)
    close(pixel_to_normalized(np.float32([0, 2, 4]), 5, align_corners=True), ends)


@pytest.mark.parametrize(
    ("align_corners", "x", "y"),
    [(False, [-0.75, -0.25, 0.25, 0.75], [-0.5, 0.5]), (True, [-1, -1 / 3, 1 / 3, 1], [-1, 1])],
)
def test_the_grid_of_the_identity_holds_the_pixel_centers_as_x_y(align_corners, x, y):
    grid = jitted.grid(affine.identity(), (2, 4), align_corners=align_corners)
    close(grid, np.stack(np.meshgrid(x, y), axis=-1))


def test_the_grid_of_a_volume_holds_x_y_z():
    grid = jitted.grid(affine.identity(3), (2, 3, 4), align_corners=True)
    z, y, x = np.meshgrid([-1, 1], [-1, 0, 1], np.linspace(-1, 1, 4), indexing="ij")
    close(grid, np.stack([x, y, z], axis=-1))


@pytest.mark.parametrize("rank", [2, 3])
def test_grids_take_the_leading_axes_of_theta(rank):
    thetas, shape = random_thetas(2, 3, num_spatial_dims=rank), (2, 4, 5)[-rank:]
    grids = jitted.grid(thetas, shape)
    assert grids.shape == (2, 3, *shape, rank)
    for place in np.ndindex(2, 3):
        close(grids[place], jitted.grid(thetas[place], shape))
    assert jitted.grid(thetas[:, :0], shape).shape == (2, 0, *shape, rank)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_grids_may_be_empty(shape):
    assert jitted.grid(affine.identity(), shape).shape == (*shape, 2)
    assert jitted.grid(affine.identity(), shape, align_corners=True).shape == (*shape, 2)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 7), (3, 1, 4)])
def test_grids_are_those_of_pytorch_down_to_a_single_pixel(shape, align_corners):
    torch = pytest.importorskip("torch")
    theta = random_thetas(2, num_spatial_dims=len(shape))
    with warnings.catch_warnings():
        # PyTorch tells that it once did something else for a single pixel.
        warnings.filterwarnings("ignore", message="Since version 1.3.0, affine_grid behavior")
        expected = torch.nn.functional.affine_grid(
            torch.tensor(theta), (2, 1, *shape), align_corners=align_corners
        )
    close(jitted.grid(theta, shape, align_corners=align_corners), expected.numpy())


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_single_pixel_samples_the_window_center(align_corners):
    theta = random_thetas()
    grid = jitted.grid(theta, (1, 1), align_corners=align_corners)
    np.testing.assert_array_equal(grid[0, 0], theta[:, 2])


def test_a_large_grid_is_precise_to_a_thousandth_of_a_pixel():
    theta = random_thetas()
    grid = np.asarray(jitted.grid(theta, (1, 2048)))
    base = (2 * np.arange(2048) + 1) / 2048 - 1
    expected = base[:, None] * np.float64(theta[:, 0]) + theta[:, 2]
    np.testing.assert_allclose(grid[0], expected, rtol=0, atol=1e-3 / 1024)


def test_shapes_may_be_numpy_integers_or_lists():
    expected = jitted.grid(affine.identity(), (2, 3))
    for shape in ([2, 3], np.array([2, 3]), (np.int64(2), np.uint8(3))):
        np.testing.assert_array_equal(affine_grid(affine.identity(), shape), expected)


# Bad input


@pytest.mark.parametrize(
    ("theta", "shape", "kind", "message"),
    [
        (np.eye(2, 3, dtype=int), (4, 4), TypeError, "theta has type int32; expected a floating"),
        (np.eye(2, 3, dtype=bool), (4, 4), TypeError, "theta has type bool; expected a floating"),
        (np.zeros(6), (4, 4), ValueError, "theta has shape (6,); expected [..., 2, 3] for images"),
        (np.eye(3), (4, 4), ValueError, "theta has shape (3, 3); expected [..., 2, 3] for images"),
        (np.eye(2, 3), (4,), ValueError, "shape is (4,); expected the output's spatial shape (H,"),
        (np.eye(2, 3), (1, 4, 4), ValueError, "shape is (1, 4, 4); expected the output's spatial"),
        (np.eye(3, 4), (4, 4), ValueError, "shape is (4, 4); expected the output's spatial shape"),
        (np.eye(2, 3), (4, -1), ValueError, "shape is (4, -1); sizes must not be negative"),
        (np.eye(2, 3), 4, TypeError, "shape is 4; expected a tuple of ints (H, W)"),
        (np.eye(2, 3), None, TypeError, "shape is None; expected a tuple of ints (H, W)"),
        (np.eye(2, 3), (4.0, 4), TypeError, "shape is (4.0, 4); expected a tuple of ints (H, W)"),
        (np.eye(3, 4), "DHW", TypeError, "shape is 'DHW'; expected a tuple of ints (D, H, W)"),
    ],
)
def test_affine_grid_names_the_wrong_argument(theta, shape, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        affine_grid(theta, shape)
