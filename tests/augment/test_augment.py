"""Images, masks, boxes and keypoints stay together, whatever happens to them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import augment
from stn_jax.warp import affine, affine_transform

SIZE = (40, 48)
# Keypoints well inside, so that they stay in the image.
POINTS = np.array([[20.0, 18.0], [30.0, 24.0], [24.0, 15.0]])
KEY = jax.random.key(0)


def spots(points, shape, width=1.5):
    """An image with a channel for each keypoint: a bright spot there."""
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")[::-1]
    squared = sum((axis[..., None] - np.asarray(points)[:, k]) ** 2 for k, axis in enumerate(axes))
    return np.exp(-squared / (2 * width**2)).astype("f4")


def centers(image):
    """Where the spots of an image are: ``[K, r]`` as (x, y)."""
    image = np.asarray(image, np.float64)
    axes = np.meshgrid(*(np.arange(n) for n in image.shape[:-1]), indexing="ij")[::-1]
    weight = image.reshape(-1, image.shape[-1])
    weight = weight / weight.sum(0)
    return np.stack([axis.reshape(-1) @ weight for axis in axes], -1)


def batch(count=4):
    """Spots, a mask of labels above 2**24 around the first, its box, and all keypoints."""
    mask = np.zeros(SIZE, np.int32)
    mask[12:25, 14:27] = 2**24 + 1
    box = np.float32([[14, 12, 27, 25]])
    one = augment.Targets(spots(POINTS, SIZE), mask, box, np.float32(POINTS))
    return jax.tree.map(lambda x: np.stack([x] * count), one)


VOLUME_POINTS = np.array([[8.0, 9.0, 7.0], [11.0, 7.0, 9.0]])


def volumes(count=4):
    size = (16, 18, 20)
    mask = np.zeros(size, np.int32)
    mask[6:10, 7:12, 6:12] = 5
    box = np.float32([[6, 7, 6, 12, 12, 10]])
    one = augment.Targets(spots(VOLUME_POINTS, size), mask, box, np.float32(VOLUME_POINTS))
    return jax.tree.map(lambda x: np.stack([x] * count), one)


RANDOM = {
    "affine": functools.partial(
        augment.random_affine, angle=40, scale=(0.8, 1.2), shear=0.2, shift=0.1
    ),
    "perspective": functools.partial(augment.random_perspective, distortion=0.4),
    "elastic": functools.partial(augment.random_elastic, magnitude=1.5, smoothness=8.0),
    "thin plate": functools.partial(augment.random_thin_plate, magnitude=0.06),
    "flip": augment.random_flip,
    "flip y": functools.partial(augment.random_flip, axis="y"),
    "crop": functools.partial(augment.random_crop, shape=(34, 40)),
    "resized crop": functools.partial(
        augment.random_resized_crop, shape=(48, 48), scale=(0.85, 1.0)
    ),
}
RANDOM_3D = {
    "affine": functools.partial(augment.random_affine, angle=20, shift=0.05, num_spatial_dims=3),
    "elastic": functools.partial(
        augment.random_elastic, magnitude=0.7, smoothness=5.0, num_spatial_dims=3
    ),
    "flip": functools.partial(augment.random_flip, axis="z", num_spatial_dims=3),
    "crop": functools.partial(augment.random_crop, shape=(14, 15, 17), num_spatial_dims=3),
}
ALL = [*((name, f, batch) for name, f in RANDOM.items())]
ALL += [(f"{name}, volumes", f, volumes) for name, f in RANDOM_3D.items()]
each = pytest.mark.parametrize(("augmented", "make"), [a[1:] for a in ALL], ids=[a[0] for a in ALL])


def jitted(function):
    return jax.jit(lambda key, targets: function(key, targets))


@pytest.mark.thin("perspective", "thin plate", "flip", "resized crop", "affine, volumes")
@each
def test_all_targets_move_together(augmented, make):
    targets = make()
    found, drawn = jitted(augmented)(KEY, targets)
    assert len(drawn) == len(targets.image)
    assert len(np.unique(np.asarray(drawn).reshape(len(drawn), -1), axis=0)) > 1
    assert not np.allclose(found.keypoints, targets.keypoints)
    for image, mask, boxes, points in zip(*found, strict=True):
        # A spot that is bent has its center of mass elsewhere, by a small part of a pixel.
        np.testing.assert_allclose(centers(image), points, atol=0.25)
        label = targets.mask.max()
        assert set(np.unique(mask)) == {0, label}
        where = np.nonzero(np.asarray(mask) == label)[::-1]
        around = [[w.min() for w in where], [w.max() + 1 for w in where]]
        rank = len(where)
        low, high = boxes[0, :rank], boxes[0, rank:]
        # The labels lie in the box; of turned ones the box's corners stick out.
        assert (np.array(around[0]) >= low - 1).all()
        assert (np.array(around[1]) <= high + 1).all()
        assert (high - low <= 1.5 * np.subtract(*around[::-1]) + 2).all()


@pytest.mark.thin("affine", "crop", "elastic, volumes")
@each
def test_pure_functions_of_a_key(augmented, make):
    targets = make()
    run = jitted(augmented)
    a, b = run(KEY, targets), run(KEY, targets)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    others = [run(jax.random.key(k), targets)[1] for k in range(1, 6)]  # a coin falls twice alike
    assert any(not np.array_equal(a[1], other) for other in others)
    # Mapped over keys, or without a batch axis: the same functions.
    keys = jax.random.split(KEY, 2)
    mapped = jax.jit(jax.vmap(lambda key: augmented(key, jax.tree.map(lambda x: x[0], targets))))
    alone = run(keys[1], jax.tree.map(lambda x: x[0], targets))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-5, atol=1e-4), mapped(keys), alone
    )


@each
def test_strict_promotion(augmented, make):
    """Neither ranks nor types are promoted by JAX."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(augmented, KEY, make())


@pytest.mark.thin("perspective", "flip, volumes")
@each
def test_an_image_alone(augmented, make):
    targets = make()
    alone = augment.Targets(targets.image)
    run = jitted(augmented)
    found = run(KEY, alone)[0]
    np.testing.assert_allclose(found.image, run(KEY, targets)[0].image, atol=1e-6)
    assert found[1:] == (None, None, None)


def test_affine_parameters_are_those_asked_for():
    targets = augment.Targets(jnp.ones((200, 8, 16, 1)))
    _, theta = augment.random_affine(KEY, targets, angle=(10, 30))
    angles = affine.angle(theta, aspect=2.0)
    assert angles.min() > 10 - 1e-3
    assert angles.max() < 30 + 1e-3
    assert np.ptp(angles) > 15
    _, theta = augment.random_affine(KEY, targets, scale=(2, 4), shift=0.25)
    np.testing.assert_array_less(1 / affine.scale(theta), 4 + 1e-4)
    np.testing.assert_array_less(2 - 1e-4, 1 / affine.scale(theta))
    assert 0.4 < np.abs(theta[..., 2]).max() <= 0.5


def test_nothing_is_the_identity():
    targets = batch()
    found, theta = jitted(augment.random_affine)(KEY, targets)
    np.testing.assert_allclose(theta, np.stack([np.eye(2, 3)] * 4), atol=1e-7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, targets)
    for run in (
        functools.partial(augment.random_perspective, distortion=0.0),
        functools.partial(augment.random_elastic, magnitude=0.0),
        functools.partial(augment.random_thin_plate, magnitude=0.0),
        functools.partial(augment.random_flip, probability=0.0),
        functools.partial(augment.random_crop, shape=SIZE),
    ):
        found, _ = jitted(run)(KEY, targets)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, targets)


def test_elastic_fields_have_the_deviation_asked_for():
    targets = augment.Targets(jnp.ones((64, 40, 48, 1)))
    _, field = augment.random_elastic(KEY, targets, magnitude=3.0, smoothness=4.0)
    assert field.shape == (64, 40, 48, 2)
    assert abs(float(field.std()) - 3) < 0.15
    assert abs(float(field[:, 0].std()) - 3) < 0.4  # at the edge too


def test_boxes_that_leave_have_no_area():
    targets = batch()
    theta = jnp.broadcast_to(jnp.array([[1.0, 0, 4], [0, 1, 0]]), (4, 2, 3))
    found = augment.apply_theta(targets, theta, mask_fill=9)
    assert (found.boxes[..., 0] == found.boxes[..., 2]).all()
    assert (found.mask == 9).all()
    np.testing.assert_allclose(
        found.keypoints[..., 0], POINTS[:, 0] - 96 + np.zeros((4, 3)), atol=1e-3
    )


def test_thetas_and_fields_of_ones_own():
    targets = batch()
    theta = jnp.broadcast_to(jnp.array([[0.9, 0.2, 0.1], [-0.1, 0.8, 0.05]]), (4, 2, 3))
    found = augment.apply_theta(targets, theta, (20, 30), fill=0.5)
    expected = affine_transform(targets.image, theta, (20, 30), fill=0.5)
    np.testing.assert_allclose(found.image, expected, atol=1e-6)
    assert found.mask.shape == (4, 20, 30)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: augment.random_affine(KEY, t.image), TypeError, "expected stn_jax.augment.Tar"),
        (lambda t: augment.random_affine(KEY, t, scale=(0, 1)), ValueError, "scale is"),
        (lambda t: augment.random_affine(KEY, t, angle=(1, 0)), ValueError, "angle is"),
        (
            lambda t: augment.random_affine(KEY, t, num_spatial_dims=3),
            ValueError,
            "boxes has shape",
        ),
        (
            lambda t: augment.random_affine(KEY, t, num_spatial_dims=4),
            ValueError,
            "num_spatial_dims is 4",
        ),
        (lambda t: augment.random_flip(KEY, t, axis="z"), ValueError, "axis is 'z'"),
        (lambda t: augment.random_crop(KEY, t, (50, 10)), ValueError, "shape is .* at most"),
        (lambda t: augment.random_perspective(KEY, t, distortion=1), ValueError, "distortion is"),
        (lambda t: augment.random_elastic(KEY, t, smoothness=0), ValueError, "magnitude is"),
        (lambda t: augment.random_thin_plate(KEY, t, magnitude=-1), ValueError, "magnitude is"),
        (
            lambda t: augment.random_resized_crop(KEY, t, (4, 4), scale=(0, 2)),
            ValueError,
            "scale is",
        ),
        (
            lambda t: augment.random_flip(KEY, t._replace(keypoints=t.keypoints[:2])),
            ValueError,
            "keypoints has shape",
        ),
        (
            lambda t: augment.apply_displacement(t, jnp.ones((4, 3, 3, 2))),
            ValueError,
            "field has shape",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(batch())
