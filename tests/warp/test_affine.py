"""Affine matrices: closed forms, NumPy in float64 as the oracle, bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from thetas import close, jitted, random_thetas, some, square

from stn_jax.warp import (
    affine,
)

# Building


@pytest.mark.parametrize("rank", [2, 3])
def test_the_identity_is_ones_on_the_diagonal(rank):
    theta = affine.identity(rank)
    assert theta.dtype == jnp.float32
    np.testing.assert_array_equal(theta, np.eye(rank, rank + 1))


def test_the_identity_takes_a_type():
    assert affine.identity(dtype=jnp.float16).dtype == jnp.float16


def test_rotation_is_the_matrix_of_cosines_and_sines():
    cos, sin = np.cos(np.radians(25)), np.sin(np.radians(25))
    close(jitted.rotation(25), [[cos, -sin, 0], [sin, cos, 0]])


def test_translation_is_the_last_column():
    close(jitted.translation((0.5, -2)), [[1, 0, 0.5], [0, 1, -2]])


def test_scaling_is_the_diagonal_and_a_scalar_serves_both_axes():
    close(jitted.scaling((2, 0.5)), [[2, 0, 0], [0, 0.5, 0]])
    close(jitted.scaling(3), [[3, 0, 0], [0, 3, 0]])


def test_shearing_adds_y_to_x():
    close(jitted.shearing(0.25), [[1, 0.25, 0], [0, 1, 0]])


def test_from_parameters_multiplies_translation_rotation_shear_and_scaling():
    found = jitted.from_parameters(30, (2, 0.5), 0.25, (0.1, -0.3))
    parts = [
        jitted.translation((0.1, -0.3)),
        jitted.rotation(30),
        jitted.shearing(0.25),
        jitted.scaling((2, 0.5)),
    ]
    close(square(found), np.linalg.multi_dot([square(part) for part in parts]))


def test_from_parameters_without_any_is_the_identity():
    np.testing.assert_array_equal(jitted.from_parameters(), affine.identity())


@pytest.mark.parametrize(
    ("build", "argument", "shape"),
    [
        (jitted.rotation, np.zeros((4, 3)), (4, 3, 2, 3)),
        (jitted.translation, np.zeros((4, 3, 2)), (4, 3, 2, 3)),
        (jitted.scaling, np.ones((4, 3, 2)), (4, 3, 2, 3)),
        (jitted.shearing, np.zeros((4, 3)), (4, 3, 2, 3)),
        (jitted.from_parameters, np.zeros((4, 3)), (4, 3, 2, 3)),
        (jitted.rotation, np.zeros(0), (0, 2, 3)),
    ],
)
def test_builders_take_batches_in_half_precision_and_answer_in_float32(build, argument, shape):
    theta = build(jnp.asarray(argument, jnp.bfloat16))
    assert (theta.shape, theta.dtype) == (shape, jnp.float32)


def test_builders_take_whole_numbers():
    theta = jitted.from_parameters(0, 2, 0, (1, -1))
    assert theta.dtype == jnp.float32
    np.testing.assert_array_equal(theta, [[2, 0, 1], [0, 2, -1]])


def test_builders_take_each_member_of_a_batch_for_itself():
    angles, shifts = np.float32([10, -20, 100]), np.float32([[1, 2], [3, 4], [5, 6]])
    shears, scales = np.float32([[0.1], [-0.2]]), np.float32([1.5, 0.5])
    found = jitted.from_parameters(angles, scales, shears, shifts)
    assert found.shape == (2, 3, 2, 3)
    for i, j in np.ndindex(2, 3):
        one = jitted.from_parameters(angles[j], scales, shears[i, 0], shifts[j])
        close(found[i, j], one)


def test_an_aspect_may_be_a_batch_too():
    found = jitted.rotation(30, aspect=np.array([1.0, 2.0]))
    close(found, np.stack([jitted.rotation(30), jitted.rotation(30, aspect=2.0)]))
    aspects = np.float32([0.5, 1, 3])
    built = jitted.from_parameters(20.0, (1.5, 0.5), 0.3, aspect=aspects)
    for each, aspect in zip(built, aspects, strict=True):
        close(each, jitted.from_parameters(20.0, (1.5, 0.5), 0.3, aspect=aspect))
    # One theta, read as that of images of several shapes.
    theta = random_thetas()
    read = jitted.decompose(theta, aspect=aspects)
    assert jax.tree.map(jnp.shape, read) == ((3,), (3, 2), (3,), (3, 2))
    for i, aspect in enumerate(aspects):
        jax.tree.map(
            lambda many, one, i=i: close(many[i], one), read, jitted.decompose(theta, aspect=aspect)
        )
        close(jitted.angle(theta, aspect=aspects)[i], jitted.angle(theta, aspect=aspect))


def test_float64_stays_float64():
    with jax.enable_x64(True):
        theta = jitted.from_parameters(*map(np.float64, (30, (2, 0.5), 0.25, (0.1, -0.3))))
        assert theta.dtype == jnp.float64
        assert jitted.invert(theta).dtype == jnp.float64
        assert jitted.angle(theta).dtype == jnp.float64
        assert jitted.angle(np.float32(theta), aspect=2.0).dtype == jnp.float32


# What the picture does


def test_a_positive_angle_turns_the_picture_counter_clockwise():
    image = np.random.default_rng(0).random((6, 6, 1), np.float32)
    turned = jitted.transform(image, jitted.rotation(90))
    np.testing.assert_allclose(turned, np.rot90(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(30, 30), (28, 50), (50, 28)])
def test_a_dot_goes_round_the_center_on_a_circle_whatever_the_aspect(height, width):
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    dot = np.array([6, 3])  # right of the center and below
    image = np.float32(np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / 4))[..., None]
    angles = np.float32([30, -50, 160])
    turned = jitted.transform(image, jitted.rotation(angles, aspect=width / height))
    for angle, picture in zip(angles, np.float64(turned[..., 0]), strict=True):
        center = np.array([(picture * x).sum(), (picture * y).sum()]) / picture.sum()
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        # With y downwards, counter-clockwise as one sees it takes x to -y.
        np.testing.assert_allclose(center, [[cos, sin], [-sin, cos]] @ dot, rtol=0, atol=5e-3)


def test_a_translation_moves_the_picture_left_and_up():
    image = np.random.default_rng(0).random((4, 8, 1), np.float32)
    moved = jitted.transform(image, jitted.translation((2 * 2 / 8, 1 * 2 / 4)))
    np.testing.assert_array_equal(moved[:3, :6], image[1:, 2:])
    assert not moved[3:].any()
    assert not moved[:, 6:].any()


def test_a_small_window_magnifies():
    image = np.random.default_rng(0).random((4, 8, 1), np.float32)
    magnified = jitted.transform(image, jitted.scaling(0.5), mode="nearest")
    inner = image[1:3, 2:6]
    np.testing.assert_array_equal(magnified, inner.repeat(2, axis=0).repeat(2, axis=1))


def test_with_the_aspect_a_shear_moves_a_row_by_pixels_for_each_pixel_down():
    image = np.random.default_rng(0).random((5, 9, 1), np.float32)
    sheared = jitted.transform(
        image, jitted.shearing(1.0, aspect=9 / 5), padding_mode="border", mode="nearest"
    )
    for row, by in enumerate((-2, -1, 0, 1, 2)):
        columns = np.clip(np.arange(9) + by, 0, 8)
        np.testing.assert_array_equal(sheared[row], image[row, columns])


def test_shearing_moves_the_lower_rows_of_the_window_to_the_right():
    image = np.random.default_rng(0).random((4, 8, 1), np.float32)
    # y is -3/4, -1/4, 1/4, 3/4; a pixel is 1/4 in x.
    sheared = jitted.transform(image, jitted.shearing(1.0), padding_mode="border")
    np.testing.assert_array_equal(sheared[0, 3:], image[0, :-3])
    np.testing.assert_array_equal(sheared[2, :-1], image[2, 1:])
    np.testing.assert_array_equal(sheared[3, :-3], image[3, 3:])


# Composing and inverting


@pytest.mark.parametrize("rank", [2, 3])
def test_compose_is_the_matrix_product(rank):
    thetas = [random_thetas(5, num_spatial_dims=rank, seed=seed) for seed in range(3)]
    a, b, c = map(square, thetas)
    close(square(jitted.compose(*thetas)), a @ b @ c)


def test_compose_broadcasts_and_one_theta_is_itself():
    one, many = random_thetas(seed=0), random_thetas(4, 1, seed=1)
    many_more = random_thetas(3, seed=2)
    found = jitted.compose(one, many, many_more)
    assert found.shape == (4, 3, 2, 3)
    close(square(found), square(one) @ square(many) @ square(many_more))
    np.testing.assert_array_equal(jitted.compose(one), one)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("rank", "shape"), [(2, (4, 6)), (3, (2, 4, 5))])
def test_a_composed_warp_samples_the_positions_of_two_successive_warps(rank, shape, align_corners):
    a, b = (
        random_thetas(num_spatial_dims=rank, seed=0),
        random_thetas(num_spatial_dims=rank, seed=1),
    )
    # The second warp looks at places of the first one's output, each of which looks on.
    places = np.asarray(jitted.grid(b, shape, align_corners=align_corners), np.float64)
    twice = places @ np.float64(a[:, :rank]).T + a[:, rank]
    close(jitted.grid(jitted.compose(a, b), shape, align_corners=align_corners), twice)


def test_warping_twice_by_whole_pixels_is_warping_once_by_both():
    image = np.random.default_rng(0).random((4, 8, 1), np.float32)
    turn = jitted.from_parameters(180.0)
    step = jitted.translation((0.25, 0.5))
    twice = jitted.transform(jitted.transform(image, turn), step)
    once = jitted.transform(image, jitted.compose(turn, step))
    np.testing.assert_allclose(once, twice, rtol=0, atol=1e-5)
    other_order = jitted.transform(image, jitted.compose(step, turn))
    assert np.abs(other_order - twice).max() > 0.1


@pytest.mark.parametrize("rank", [2, 3])
def test_invert_is_the_inverse_matrix(rank):
    thetas = random_thetas(4, 3, num_spatial_dims=rank)
    found = jitted.invert(thetas)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(square(found), np.linalg.inv(square(thetas)), rtol=0, atol=1e-5)
    identity = np.broadcast_to(affine.identity(rank), thetas.shape)
    np.testing.assert_allclose(jitted.compose(thetas, found), identity, rtol=0, atol=1e-5)
    np.testing.assert_allclose(jitted.compose(found, thetas), identity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 3])
def test_invert_is_precise_in_float64(rank):
    thetas = np.float64(random_thetas(5, num_spatial_dims=rank))
    with jax.enable_x64(True):
        close(square(jitted.invert(thetas)), np.linalg.inv(square(thetas)), atol=1e-13)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_singular_theta_has_no_finite_inverse(rank):
    theta = np.eye(rank, rank + 1)
    theta[0, 0] = 0
    assert not np.isfinite(jitted.invert(theta)).all()


# Reading back


@some
@given(st.data())
def test_the_angle_is_that_of_the_nearest_rotation(data):
    aspect = data.draw(st.sampled_from([1.0, 0.25, 16 / 9]))
    entries = st.floats(-2, 2).map(lambda x: round(x, 3))
    linear = np.array(data.draw(st.lists(entries, min_size=4, max_size=4))).reshape(2, 2)
    # Orthogonal Procrustes: the proper rotation closest to the matrix.
    u, (large, small), vt = np.linalg.svd(linear)
    flip = np.sign(np.linalg.det(u @ vt))
    assume(large + flip * small > 1e-2)  # else every rotation is as near
    nearest = u @ np.diag([1, flip]) @ vt
    expected = np.degrees(np.arctan2(nearest[1, 0], nearest[0, 0]))
    with jax.enable_x64(True):
        # Of square pixels; normalized coordinates are these, squeezed along x.
        linear *= [[1, 1 / aspect], [aspect, 1]]
        theta = np.concatenate([linear, [[9.0], [9.0]]], axis=1)
        found = float(jitted.angle(theta, aspect=aspect))
    assert np.abs((found - expected + 180) % 360 - 180) < 1e-9


@pytest.mark.parametrize("aspect", [1.0, 2.0, 3 / 4])
@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_angle_undoes_rotation_whatever_the_scale_and_shift(scale, aspect):
    angles = np.arange(-179, 180, 7.5)
    thetas = jitted.from_parameters(angles, scale, 0.0, (0.5, -3), aspect=aspect)
    np.testing.assert_allclose(jitted.angle(thetas, aspect=aspect), angles, rtol=0, atol=1e-4)
    turned = jitted.rotation(angles, aspect=aspect)
    np.testing.assert_allclose(jitted.angle(turned, aspect=aspect), angles, rtol=0, atol=1e-4)


def test_scale_is_the_root_of_the_determinant():
    thetas = random_thetas(4, 3)
    expected = np.sqrt(np.abs(np.linalg.det(np.float64(thetas[..., :2]))))
    close(jitted.scale(thetas), expected)
    close(jitted.scale(jitted.from_parameters(40, (2, 8), 0.7)), 4, atol=1e-5)


def test_shift_is_the_last_column():
    thetas = random_thetas(4, 3)
    np.testing.assert_array_equal(jitted.shift(thetas), thetas[..., 2])


def test_shear_is_that_of_shearing():
    shears = np.linspace(-2, 2, 9)
    close(jitted.shear(jitted.shearing(shears)), shears)
    for aspect in (1.0, 2.0):
        turned = jitted.compose(
            jitted.rotation(70, aspect=aspect),
            jitted.shearing(shears, aspect=aspect),
            jitted.scaling((2, 3)),
        )
        np.testing.assert_allclose(jitted.shear(turned, aspect=aspect), shears, rtol=0, atol=1e-5)


@some
@given(
    angle=st.floats(-179, 179),
    scale_x=st.floats(0.1, 5),
    scale_y=st.one_of(st.floats(0.1, 5), st.floats(-5, -0.1)),
    shear=st.floats(-2, 2),
    shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    aspect=st.floats(0.25, 4),
)
def test_decompose_reads_back_what_from_parameters_wrote(
    angle, scale_x, scale_y, shear, shift, aspect
):
    with jax.enable_x64(True):
        arguments = (np.float64(a) for a in (angle, (scale_x, scale_y), shear, shift))
        theta = jitted.from_parameters(*arguments, aspect=aspect)
        found = jitted.decompose(theta, aspect=aspect)
        np.testing.assert_allclose(found.angle, angle, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.scale, (scale_x, scale_y), rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.shear, shear, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.shift, shift, rtol=0, atol=1e-9)


def test_from_parameters_rebuilds_any_theta_from_its_decomposition():
    thetas = random_thetas(4, 3)
    found = jitted.from_parameters(*jitted.decompose(thetas))
    np.testing.assert_allclose(found, thetas, rtol=0, atol=1e-5)


def test_a_theta_that_folds_the_x_axis_decomposes_to_nan():
    assert np.isnan(jitted.decompose([[0.0, 1, 0], [0, 1, 0]]).shear)


@pytest.mark.parametrize(
    "read", [jitted.angle, jitted.scale, jitted.shift, jitted.shear, jitted.decompose]
)
def test_readers_take_batches_in_half_precision_and_answer_in_float32(read):
    found = jax.tree.leaves(read(jnp.asarray(random_thetas(4, 3), jnp.bfloat16)))
    assert {array.shape[:2] for array in found} == {(4, 3)}
    assert {array.dtype for array in found} == {np.dtype("float32")}


def test_everything_is_differentiable_at_the_identity():
    def pose(theta):
        read = jitted.decompose(jitted.invert(jitted.compose(theta, theta)))
        return jitted.angle(theta) + jitted.scale(theta) + sum(a.sum() for a in read)

    gradient = jax.jit(jax.grad(pose))(affine.identity())
    assert np.isfinite(gradient).all()
    assert np.all(gradient != 0)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affine.identity(4), "num_spatial_dims is 4; expected 2 (images) or 3 (volumes)"),
        (lambda: affine.translation(0.5), "shift has shape (); expected [..., 2], for x and y"),
        (lambda: affine.translation([1.0, 2, 3]), "shift has shape (3,); expected [..., 2]"),
        (lambda: affine.scaling([1.0, 2, 3]), "scale has shape (3,); expected [..., 2]"),
        (lambda: affine.from_parameters(shift=1.0), "shift has shape (); expected [..., 2]"),
        (lambda: affine.compose(), "compose needs at least one theta"),
        (lambda: affine.compose(np.eye(3)), "theta has shape (3, 3); expected [..., 2, 3] or"),
        (
            lambda: affine.compose(np.eye(2, 3), np.eye(3, 4)),
            "theta has shape (3, 4); expected [..., 2, 3]",
        ),
        (
            lambda: affine.compose(np.eye(3, 4), np.eye(2, 3)),
            "theta has shape (2, 3); expected [..., 3, 4]",
        ),
        (lambda: affine.invert(np.eye(3)), "theta has shape (3, 3); expected [..., 2, 3] or"),
    ],
)
def test_affine_functions_name_the_wrong_argument(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "read", [affine.angle, affine.scale, affine.shift, affine.shear, affine.decompose]
)
@pytest.mark.parametrize("theta", [np.eye(3, 4), np.zeros(6), np.eye(2)])
def test_readers_take_two_by_three_only(read, theta):
    message = f"theta has shape {theta.shape}; expected [..., 2, 3]"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(theta)
