"""The two families that are not affine: NumPy in float64 and SciPy are the judges."""

import jax
import numpy as np
import pytest
from families import apply_matrix, close, exact, jitted, pixel_centers, random_params
from scipy.spatial.distance import cdist
from scipy.special import xlogy

from stn_jax.warp import affine, affine_grid, grid_sample
from stn_jax.warp.transforms import (
    Affine,
    Projective,
    ThinPlateSpline,
)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_homography_divides_by_the_third_coordinate(align_corners):
    params = random_params(Projective(), 20, reach=0.45)  # everything in front of the horizon
    theta = np.eye(3) + np.append(params, np.zeros((20, 1)), -1).reshape(20, 3, 3)
    shape = (4, 6)
    found = jitted(Projective())(params, shape, align_corners=align_corners)
    expected = [apply_matrix(each, pixel_centers(shape, align_corners)) for each in theta]
    close(found, expected, atol=2e-6)


def test_four_corners_go_where_the_homography_between_them_takes_them():
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1.0]])
    targets = np.array([[-0.6, -0.8], [0.9, -1.1], [-1.0, 0.7], [0.4, 0.5]])
    # The direct linear transformation (Hartley and Zisserman 2004, Section 4.1).
    equations, values = [], []
    for (x, y), (u, v) in zip(corners, targets, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    params = np.linalg.solve(equations, values) - [1, 0, 0, 0, 1, 0, 0, 0]
    grid = jitted(Projective())(params, (2, 2), align_corners=True)
    close(grid, targets.reshape(2, 2, 2), atol=1e-5)


def test_without_perspective_a_homography_is_affine():
    params = random_params(Projective(), 5)
    params[:, 6:] = 0
    close(jitted(Projective())(params, (4, 6)), jitted(Affine())(params[:, :6], (4, 6)))


def test_homographies_are_the_same_up_to_a_positive_factor():
    theta = Projective().theta(random_params(Projective(), 5, reach=0.9))
    grid_of = jitted(Projective(), "grid_of")
    for factor in (1e-6, 0.125, 1e6):
        np.testing.assert_allclose(
            grid_of(factor * theta, (4, 6)), grid_of(theta, (4, 6)), rtol=1e-4, atol=1e-5
        )


class TestHorizon:
    """Rows y are -1, -0.5, 0, 0.5, 1 and w = 1 + 2 y: -1, 0, 1, 2, 3."""

    shape = (5, 4)
    theta = np.float32([[1, 0, 0.3], [0, 1, 0.2], [0, 2, 1]])
    image = np.random.default_rng(0).random((8, 8, 1), np.float32) + 1

    def grid(self, theta):
        return jitted(Projective(), "grid_of")(theta, self.shape, align_corners=True)

    def test_on_it_and_behind_it_positions_are_finite_and_far_outside(self):
        grid = np.asarray(self.grid(self.theta))
        assert np.all(grid[:2] == Projective.NOWHERE)
        close(grid[2:], apply_matrix(self.theta, pixel_centers(self.shape, True)[2:]))

    @pytest.mark.thin
    @pytest.mark.parametrize(("padding_mode", "seen"), [("zeros", 0), ("border", image[0, 0, 0])])
    @pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
    def test_positions_behind_the_horizon_show_the_padding(self, mode, padding_mode, seen):
        sampled = grid_sample(
            self.image,
            self.grid(self.theta),
            mode=mode,
            padding_mode=padding_mode,
            align_corners=True,
        )
        close(sampled[:2], seen)
        assert np.all(np.asarray(sampled[2, :3]) > 0.5)

    def test_a_point_behind_that_would_come_out_in_the_middle_is_not_seen(self):
        # (u, v) is (0, 0) at (x, y) = (-1, -1), where w is -1: dividing would give the center.
        theta = np.float32([[1, 0, 1], [0, 1, 1], [0, 2, 1]])
        assert np.all(np.asarray(self.grid(theta))[0, 0] == Projective.NOWHERE)
        # And where all three are 0.
        theta = np.float32([[1, 0, 1], [0, 1, 0.5], [0, 2, 1]])
        assert np.all(np.asarray(self.grid(theta))[1, 0] == Projective.NOWHERE)

    @pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
    def test_it_leaves_the_gradient_finite_and_to_what_is_in_front(self, padding_mode):
        @jax.jit
        @jax.grad
        def gradient(theta, rows):
            grid = Projective().grid_of(theta, self.shape, align_corners=True)
            sampled = grid_sample(self.image, grid, padding_mode=padding_mode, align_corners=True)
            return (rows[:, None, None] * sampled**2).sum()

        every, front = (
            np.asarray(gradient(self.theta, rows))
            for rows in (np.ones(5, np.float32), np.float32([0, 0, 1, 1, 1]))
        )
        assert np.isfinite(every).all()
        np.testing.assert_array_equal(every, front)
        assert np.abs(every).max() > 0.1

    def test_all_of_an_image_may_be_behind(self):
        @jax.jit
        @jax.value_and_grad
        def loss(theta):
            return Projective().grid_of(theta, self.shape).sum()

        for theta in (-np.eye(3, dtype=np.float32), np.zeros((3, 3), np.float32)):
            value, gradient = loss(theta)
            assert value == Projective.NOWHERE * 5 * 4 * 2
            assert not gradient.any()

    def test_not_a_number_is_not_taken_for_behind(self):
        for column in range(3):
            theta = self.theta.copy()
            theta[2, column] = np.nan
            assert np.isnan(self.grid(theta)).all()


# Thin-plate splines


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("points", "smoothing"), [(2, 0.0), (4, 0.0), (5, 0.0), (4, 0.2)])
def test_splines_solve_their_equations(points, smoothing, align_corners):
    """Bookstein 1989, Eq. 1-5: f(p) = sum of w_i U(|p - c_i|), plus an affine transform."""
    family, shape = ThinPlateSpline(points, smoothing), (4, 6)
    params = random_params(family, reach=0.5)
    axis = np.linspace(-1, 1, points)
    control = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)

    def basis(positions):
        distance = cdist(positions, control)
        affine_part = np.concatenate([np.ones((len(positions), 1)), positions], axis=1)
        return np.concatenate([xlogy(distance**2, distance), affine_part], axis=1)

    count = len(control)
    system = np.zeros((count + 3, count + 3))
    system[:count] = basis(control)
    system[:count, :count] += smoothing * np.eye(count)
    system[count:, :count] = system[:count, count:].T
    values = np.concatenate([control + params.reshape(-1, 2), np.zeros((3, 2))])
    pixels = pixel_centers(shape, align_corners).reshape(-1, 2)
    expected = (basis(pixels) @ np.linalg.solve(system, values)).reshape(*shape, 2)
    with jax.enable_x64(True):
        exact(jitted(family)(params, shape, align_corners=align_corners), expected)
    close(jitted(family)(params, shape, align_corners=align_corners), expected, atol=1e-6)


@pytest.mark.parametrize("points", [2, 4, 7])
def test_control_points_are_mapped_to_their_positions(points):
    family = ThinPlateSpline(points)
    theta = family.theta(random_params(family, 3))
    close(jitted(family, "grid_of")(theta, (points, points), align_corners=True), theta, atol=2e-6)


def test_parameters_are_displacements_row_by_row():
    params = np.zeros(18)
    params[2 * 5 + 1] = 0.25  # y of the sixth of 3x3 points: the middle row's last
    theta = np.array(ThinPlateSpline(3).theta(params))
    close(theta[1, 2], [1, 0.25])
    theta[1, 2, 1] = 0
    close(theta, np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1))


@pytest.mark.parametrize("family", [ThinPlateSpline(), ThinPlateSpline(3, smoothing=10.0)], ids=str)
def test_affine_displacements_do_not_bend(family):
    matrix = affine.from_parameters(30, (1.2, 0.7), 0.1, (0.1, -0.2))
    control = affine_grid(matrix, (family.points,) * 2, align_corners=True)
    close(jitted(family, "grid_of")(control, (4, 6)), affine_grid(matrix, (4, 6)), atol=2e-6)
    close(jitted(family, "as_affine")(control), matrix)


def test_smoothing_without_end_leaves_the_affine_part():
    family = ThinPlateSpline(smoothing=1e9)
    theta = family.theta(random_params(family))
    found = jitted(family, "grid_of")(theta, (4, 6))
    close(found, affine_grid(family.as_affine(theta), (4, 6)), atol=2e-6)
