"""Families of transforms: NumPy in float64, SciPy's splines and PyTorch's grids as the judges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import (
    AFFINE,
    ALL,
    MATRICES,
    PLANAR,
    SHAPE,
    apply_matrix,
    close,
    each_of,
    exact,
    jitted,
    pixel_centers,
    random_params,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_jax.warp import affine, affine_grid, grid_sample, transforms
from stn_jax.warp.transforms import (
    FAMILIES,
    Affine,
    Attention,
    Projective,
    Rotation,
    Similarity,
    ThinPlateSpline,
    Translation,
)


@each_of(ALL)
def test_parameters_0_are_exactly_the_identity(family):
    rank = family.num_spatial_dims
    shapes = (SHAPE[rank], (1,) * rank, (28,) * rank)

    @jax.jit
    def found_and_expected(params):
        return [
            (
                family.grid(params, shape, align_corners=align_corners),
                affine_grid(affine.identity(rank), shape, align_corners=align_corners),
            )
            for shape in shapes
            for align_corners in (False, True)
        ]

    for found, expected in found_and_expected(jnp.zeros((2, family.size))):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, np.stack([expected] * 2))


@each_of(ALL)
def test_each_member_of_a_batch_is_taken_for_itself(family):
    params = random_params(family, 2, 3)
    shape = SHAPE[family.num_spatial_dims]
    grids = jitted(family)(params, shape)
    assert grids.shape == (2, 3, *shape, family.num_spatial_dims)
    for place in np.ndindex(2, 3):
        close(grids[place], jitted(family)(params[place], shape))
    mapped = jax.jit(jax.vmap(lambda p: family.grid(p, shape), in_axes=1, out_axes=1))(params)
    close(mapped, grids)
    assert jitted(family)(params[:, :0], shape).shape == (2, 0, *shape, family.num_spatial_dims)
    empty = (0, *shape[1:])
    assert jitted(family)(params, empty).shape == (2, 3, *empty, family.num_spatial_dims)


@each_of(ALL)
def test_half_precision_is_computed_in_float32_and_float64_stays(family):
    params, shape = random_params(family), SHAPE[family.num_spatial_dims]

    @jax.jit
    def everything(params):
        theta = family.theta(params)
        grid = family.grid_of(theta.astype(params.dtype), shape)
        return family.as_affine(theta), family.grid(params, shape), grid

    half = jnp.asarray(params, jnp.bfloat16)
    same = everything(half.astype(jnp.float32))
    for found, expected in zip(everything(half)[:2], same, strict=False):
        assert found.dtype == jnp.float32
        close(found, expected)
    assert everything(half)[2].dtype == jnp.float32
    single = everything(np.float32(params))
    with jax.enable_x64(True):
        double = everything(params)
    for narrow, wide in zip(single, double, strict=True):
        assert (narrow.dtype, wide.dtype) == (jnp.float32, jnp.float64)
        close(narrow, wide)


@each_of(ALL)
def test_gradients_are_those_of_finite_differences(family):
    shape = SHAPE[family.num_spatial_dims]
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(*shape, family.num_spatial_dims))
    direction = rng.normal(size=family.size)
    step = 1e-6
    with jax.enable_x64(True):

        @jax.jit
        def derivatives(params):
            def loss(params):
                return (weight * family.grid(params, shape)).sum()

            value, slope = jax.jvp(loss, (params,), (direction,))
            return value, slope, jax.grad(loss)(params)

        for point in (np.zeros(family.size), random_params(family, reach=0.1)):
            _, slope, gradient = derivatives(point)
            above, below = (derivatives(point + s * direction)[0] for s in (step, -step))
            np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6)
            np.testing.assert_allclose(slope, gradient @ direction, rtol=1e-12)
            assert np.all(gradient != 0)


@each_of(ALL)
def test_no_matrix_product_is_left_to_the_accelerators_default_precision(family):
    shape, params = SHAPE[family.num_spatial_dims], random_params(family, 2)

    def everything(params):
        theta = family.theta(params)
        composed = family.compose(theta, theta) if family.composable else theta
        return family.grid_of(composed, shape), family.as_affine(composed)

    program = jax.jit(everything).lower(params).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert all("HIGHEST" in line for line in products)
    assert bool(products) == isinstance(family, ThinPlateSpline)


# Matrices


def test_thetas_are_the_matrices_of_the_table():
    angle, scale, x, y = 0.4, 0.7, 0.1, -0.2
    cos, sin = np.cos(angle), np.sin(angle)
    close(jitted(Translation(), "theta")([x, y]), [[1, 0, x], [0, 1, y]])
    close(jitted(Rotation(), "theta")([angle]), [[cos, -sin, 0], [sin, cos, 0]])
    close(
        jitted(Attention(), "theta")([np.log(scale), x, y]),
        [[scale, 0, x], [0, scale, y]],
    )
    close(
        jitted(Similarity(), "theta")([angle, np.log(scale), x, y]),
        [[scale * cos, -scale * sin, x], [scale * sin, scale * cos, y]],
    )
    delta = random_params(Affine())
    close(jitted(Affine(), "theta")(delta), np.eye(2, 3) + delta.reshape(2, 3))
    delta = random_params(Affine(3))
    close(jitted(Affine(3), "theta")(delta), np.eye(3, 4) + delta.reshape(3, 4))
    delta = random_params(Projective())
    close(jitted(Projective(), "theta")(delta), np.eye(3) + np.append(delta, 0).reshape(3, 3))


@pytest.mark.thin
@pytest.mark.parametrize("align_corners", [False, True])
@each_of(AFFINE)
def test_affine_families_have_pytorchs_grids(family, align_corners):
    torch = pytest.importorskip("torch")
    params, shape = random_params(family, 3), SHAPE[family.num_spatial_dims]
    with jax.enable_x64(True):
        theta = np.array(family.theta(params))
        found = jitted(family)(params, shape, align_corners=align_corners)
    expected = torch.nn.functional.affine_grid(
        torch.tensor(theta), (3, 1, *shape), align_corners=align_corners
    )
    exact(found, expected.numpy())


def test_a_positive_angle_turns_the_picture_counter_clockwise():
    image = np.random.default_rng(0).random((6, 6, 1), np.float32)
    turned = grid_sample(image, jitted(Rotation())(np.float32([np.pi / 2]), (6, 6)))
    close(turned, np.rot90(image), atol=1e-5)


@pytest.mark.thin
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("family", [Rotation, Similarity])
def test_with_the_aspect_distances_in_pixels_are_kept(family, align_corners):
    extent = np.array([5, 3]) - align_corners  # of (W, H) = (5, 3)
    turning = family(aspect=extent[0] / extent[1])
    params = np.zeros(turning.size)
    params[0] = 0.6
    with jax.enable_x64(True):
        grid = jitted(turning)(params, (3, 5), align_corners=align_corners)
    places = np.reshape(np.asarray(grid) * extent / 2, (-1, 2))
    before = np.stack(np.meshgrid(np.arange(5), np.arange(3)), -1).reshape(-1, 2)
    exact(
        np.linalg.norm(places[:, None] - places, axis=-1),
        np.linalg.norm(before[:, None] - before, axis=-1),
    )


@each_of(MATRICES)
@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=st.integers(0, 10**6), align_corners=st.booleans())
def test_a_composed_transform_samples_the_positions_of_two_successive_ones(
    family, seed, align_corners
):
    shape = SHAPE[family.num_spatial_dims]
    first, second = random_params(family, 2, seed=seed)
    with jax.enable_x64(True):
        a, b = (jitted(family, "theta")(p) for p in (first, second))
        composed = jitted(family, "compose")(a, b)
        found = jitted(family, "grid_of")(composed, shape, align_corners=align_corners)
        grid_b = jitted(family)(second, shape, align_corners=align_corners)
    # The second warp looks at places of the first one's output, each of which looks on.
    exact(found, apply_matrix(a, np.asarray(grid_b)))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.floats(-2, 2), st.floats(-2, 2))
def test_composing_stays_in_the_family(params, angle, log_scale):
    with jax.enable_x64(True):
        turns = Rotation(aspect=1.5)
        a, b = (turns.theta(np.array([value])) for value in (params[0], angle))
        exact(turns.compose(a, b), turns.theta(np.array([params[0] + angle])))
        step = Similarity(aspect=1.5)
        a, b = step.theta(np.array(params)), step.theta(np.array([angle, log_scale, 0, 0]))
        together = np.array([params[0] + angle, params[1] + log_scale, *params[2:]])
        np.testing.assert_allclose(step.compose(a, b), step.theta(together), atol=1e-11)
        windows = Attention()
        a, b = windows.theta(np.array(params[:3])), windows.theta(np.array([log_scale, 0.5, 0]))
        shift = np.array(params[1:3]) + np.exp(params[0]) * np.array([0.5, 0])
        together = np.array([params[0] + log_scale, *shift])
        np.testing.assert_allclose(windows.compose(a, b), windows.theta(together), atol=1e-11)


@each_of(MATRICES)
def test_compose_broadcasts_several_thetas_and_returns_a_single_one_unchanged(family):
    @jax.jit
    def composed(*params):
        a, b = map(family.theta, params)
        ab = family.compose(a, b)
        return a, family.compose(a), ab, family.compose(a, b, b), family.compose(ab, b)

    params = random_params(family, 4, 1), random_params(family, 3, seed=1)
    a, alone, both, three, step_by_step = composed(*params)
    close(alone, a)
    assert both.shape == (4, 3, *a.shape[-2:])
    close(three, step_by_step)


@pytest.mark.parametrize("fraction", [0.5, 1.0, 1.5])
@each_of(MATRICES)
def test_a_cropped_transform_samples_the_central_positions(family, fraction):
    theta = np.asarray(family.theta(random_params(family, seed=3)), np.float64)
    for align_corners in (False, True):
        positions = fraction * pixel_centers(SHAPE[family.num_spatial_dims], align_corners)
        grid = family.grid_of(
            family.cropped(theta, fraction),
            SHAPE[family.num_spatial_dims],
            align_corners=align_corners,
        )
        close(grid, apply_matrix(theta, positions))


def test_a_crop_of_half_the_sides_keeps_the_resolution():
    image = np.random.default_rng(0).normal(size=(12, 20, 3)).astype(np.float32)
    theta = Affine().cropped(affine.identity(), 0.5)
    middle = grid_sample(image, affine_grid(theta, (6, 10)))
    close(middle, image[3:9, 5:15])


# Reading a pose


@each_of(AFFINE)
def test_affine_thetas_stand_for_themselves(family):
    theta = family.theta(random_params(family, 3))
    np.testing.assert_array_equal(family.as_affine(theta), theta)


def test_a_homography_stands_for_its_slope_at_the_center():
    params, step = random_params(Projective(), 5), 1e-6
    with jax.enable_x64(True):
        theta = 3 * Projective().theta(params)
        found = np.asarray(Projective().as_affine(theta))
    for each, read in zip(np.asarray(theta), found, strict=True):
        exact(read[:, 2], apply_matrix(each, np.zeros(2)))
        ahead, back = apply_matrix(each, step * np.eye(2)), apply_matrix(each, -step * np.eye(2))
        np.testing.assert_allclose(read[:, :2], (ahead - back).T / (2 * step), atol=1e-8)


def test_a_spline_stands_for_the_nearest_affine_transform():
    family = ThinPlateSpline()
    theta = np.asarray(family.theta(random_params(family)))
    control = np.append(pixel_centers((4, 4), True), np.ones((4, 4, 1)), -1)
    expected, *_ = np.linalg.lstsq(control.reshape(-1, 3), theta.reshape(-1, 2))
    close(jitted(family, "as_affine")(theta), expected.T)


@each_of(PLANAR)
def test_the_angle_of_a_turned_picture_is_read_back(family):
    turned = affine.rotation(-35.0)
    if isinstance(family, Projective):
        theta = jnp.concatenate([turned, jnp.array([[0.2, -0.1, 1]])])
    elif isinstance(family, ThinPlateSpline):
        theta = affine_grid(turned, (4, 4), align_corners=True)
    else:
        theta = turned
    assert float(affine.angle(family.as_affine(theta))) == pytest.approx(-35, abs=1e-4)


# Names


def test_names_and_objects_are_found():
    sizes = {name: transforms.resolve(name).size for name in FAMILIES}
    assert sizes == {
        "rotation": 1,
        "translation": 2,
        "attention": 3,
        "similarity": 4,
        "affine": 6,
        "projective": 8,
        "tps": 32,
    }
    assert transforms.resolve("affine", 3) == Affine(3)
    assert transforms.resolve("affine", 3).size == 12
    own = ThinPlateSpline(points=5)
    assert transforms.resolve(own) is own
    assert own.size == 50
