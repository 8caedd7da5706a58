"""Equivariance: NumPy and SciPy in float64 as the judge, exact cases, closed forms, bad input."""

import itertools

import jax
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from made_features import LARGE, SMALL, convolution, noise, small_network, variables_of
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

import stn_jax
from stn_jax.analysis.edge_filters import edge_maps, letter_w
from stn_jax.analysis.equivariance import (
    compare,
    equivariance_error,
    rotations,
    scalings,
    translations,
)
from stn_jax.analysis.geometry import Geometry
from stn_jax.analysis.network_equivariance import network_error, network_features, network_geometry
from stn_jax.models import ConvBlock, Head, Network
from stn_jax.warp import affine

narrow, wide = convolution(noise(3, 3, 1, 2)), convolution(noise(5, 5, 1, 2))
NARROW, WIDE = Geometry((1, 1), (1, 1), (3, 3)), Geometry((1, 1), (2, 2), (5, 5))


# The measure


def warp_in_float64(array, theta, lattice=(1, 0, 1, 0)):
    """An array [H, W] warped by a theta of pixel positions on a lattice, by SciPy."""
    stride_y, offset_y, stride_x, offset_x = lattice
    y, x = np.indices(array.shape, np.float64)
    x, y = offset_x + stride_x * x, offset_y + stride_y * y
    x, y = (row[0] * x + row[1] * y + row[2] for row in theta)
    at = [(y - offset_y) / stride_y, (x - offset_x) / stride_x]
    return ndimage.map_coordinates(array, at, order=1, mode="grid-constant")


def correlated(image, kernel):
    return np.einsum("ijkl,kl", sliding_window_view(image, kernel.shape), kernel)


def in_pixels(theta, height, width):
    """The same transform of pixel positions, as a 3x3 matrix."""
    to_normalized = np.array(
        [[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]]
    )
    square = np.vstack([np.asarray(theta, np.float64), [0, 0, 1]])
    return np.linalg.inv(to_normalized) @ square @ to_normalized


@pytest.mark.parametrize(
    "theta",
    [
        affine.rotation(20.0, aspect=29 / 32),
        affine.from_parameters(-15.0, (0.9, 1.1), 0.1, (0.1, -0.05)),
        affine.scaling(0.8),
    ],
)
@pytest.mark.parametrize("margin", [None, 0, 3.5])
def test_the_measure_is_that_of_numpy_in_float64(theta, margin):
    height, width, field, stride, offset = 32, 29, (5, 3), (2, 3), (2, 1)
    image = ndimage.gaussian_filter(noise(height, width), 1.5)
    kernel = noise(*field, 1, 4, seed=1)
    geometry = Geometry(stride, offset, field)
    found = compare(
        convolution(kernel, stride),
        image[None, ..., None],
        theta,
        geometry=geometry,
        margin=margin,
    )["0"]

    def extract(array):
        channels = np.moveaxis(kernel[:, :, 0].astype(np.float64), -1, 0)
        maps = [correlated(array, each) for each in channels]
        return np.maximum(maps, 0)[:, :: stride[0], :: stride[1]]

    pixels = in_pixels(theta, height, width)
    back = np.linalg.inv(pixels)[:2]
    lattice = (stride[0], offset[0], stride[1], offset[1])
    maps = extract(image.astype(np.float64))
    moved = extract(warp_in_float64(image.astype(np.float64), pixels[:2]))
    returned = np.stack([warp_in_float64(each, back, lattice) for each in moved])
    resampled = [warp_in_float64(each, pixels[:2], lattice) for each in maps]
    resampled = np.stack([warp_in_float64(each, back, lattice) for each in resampled])

    # Position by position, all the points that it depends on.
    half = [(side - 1) / 2 if margin is None else margin for side in field]
    inside = np.zeros(maps.shape[1:], bool)
    taken, known = inside.copy(), inside.copy()
    last = np.array([width - 1, height - 1])
    for i, j in np.ndindex(*inside.shape):
        center = np.array([offset[1] + stride[1] * j, offset[0] + stride[0] * i])
        steps = [np.linspace(-side, side, 9) for side in half[::-1]]
        points = center + np.array(list(itertools.product(*steps)))
        at = points @ pixels[:2, :2].T + pixels[:2, 2]
        inside[i, j] = ((points >= 0) & (points <= last)).all()
        taken[i, j] = inside[i, j] and ((at >= 0) & (at <= last)).all()
        at = pixels[:2, :2] @ center + pixels[:2, 2]
        at = (at - offset[::-1]) / stride[::-1]
        known[i, j] = ((at >= 0) & (at <= np.array(inside.shape[::-1]) - 1)).all()
    whole = warp_in_float64(taken.astype(float), back, lattice) > 0.999
    interior = inside & whole
    assert 0 < interior.sum() < interior.size
    assert found.interior.tolist() == interior.tolist()
    np.testing.assert_allclose(
        np.moveaxis(found.returned[0], -1, 0)[:, interior], returned[:, interior], atol=1e-4
    )

    def relative(value, where):
        return np.linalg.norm((value - maps)[:, where]) / np.linalg.norm(maps[:, where])

    assert found.error[0] == pytest.approx(relative(returned, interior), abs=1e-5)
    known = interior & (warp_in_float64(known.astype(float), back, lattice) > 0.999)
    assert found.resampling[0] == pytest.approx(relative(resampled, known), abs=1e-5)


def test_errors_have_axes_of_depths_transformations_and_images():
    images, family = noise(*SMALL), rotations([30.0, 180.0])
    result = equivariance_error({"a": narrow, "b": wide}, images, family.thetas)
    assert result.depths == ("a", "b")
    assert result.error.shape == result.resampling.shape == (2, 2, 3)
    assert result.counted.shape == (2, 2)
    for d, k in np.ndindex(*result.counted.shape):
        geometry = (NARROW, WIDE)[d]
        found = compare((narrow, wide)[d], images, family.thetas[k], geometry=geometry)["0"]
        assert result.counted[d, k] == pytest.approx(float(found.interior.mean()))
        np.testing.assert_array_equal(result.resampling[d, k], found.resampling)
        interior = np.asarray(found.interior)
        for b, (maps, returned) in enumerate(zip(found.maps, found.returned, strict=True)):
            maps, returned = np.asarray(maps)[interior], np.asarray(returned)[interior]
            error = np.linalg.norm(returned - maps) / np.linalg.norm(maps)
            assert result.error[d, k, b] == pytest.approx(error, rel=1e-5)


def test_features_may_be_functions_by_name_or_in_order_or_one_of_several_maps():
    images, thetas = noise(*SMALL), rotations([30.0]).thetas
    by_name = equivariance_error({"a": narrow, "b": wide}, images, thetas)
    for features, names in (
        ((narrow, wide), ("0", "1")),
        (lambda x: [narrow(x), wide(x)], ("0", "1")),
        (lambda x: {"a": narrow(x), 2: wide(x)}, ("a", "2")),
    ):
        geometry = dict(zip(names, (NARROW, WIDE), strict=True))
        result = equivariance_error(features, images, thetas, geometry=geometry)
        assert result.depths == names
        np.testing.assert_array_equal(result.error, by_name.error)
    alone = equivariance_error(narrow, images, thetas)
    assert alone.depths == ("0",)
    np.testing.assert_array_equal(alone.error[0], by_name.error[0])


def test_features_need_not_be_jax_where_the_geometry_is_given():
    images, kernel = noise(*SMALL), noise(3, 3)
    thetas = rotations([30.0, 90.0]).thetas

    def in_numpy(images):
        maps = [correlated(np.array(each)[..., 0], kernel) for each in images]
        return np.maximum(maps, 0)[..., None]

    result = equivariance_error(in_numpy, images, thetas, geometry=NARROW)
    same = equivariance_error(convolution(kernel[..., None, None]), images, thetas)
    np.testing.assert_allclose(result.error, same.error, rtol=1e-5)


def test_of_the_image_itself_the_error_is_that_of_the_resampling():
    result = equivariance_error(lambda x: x, noise(*SMALL), rotations([0.0, 30, 90]).thetas)
    np.testing.assert_allclose(result.error, result.resampling, atol=1e-6)
    assert (result.error[0, [0, 2]] < 1e-5).all()
    assert (result.error[0, 1] > 0.1).all()
    np.testing.assert_array_equal(result.counted[0, [0, 2]], 1)


def test_without_valid_positions_the_error_is_nan():
    result = equivariance_error(lambda x: x, noise(*SMALL), translations([17.0], (16, 16)).thetas)
    assert result.counted.item() == 0
    assert np.isnan(result.error).all()
    assert np.isnan(result.resampling).all()


# What commutes


@settings(deadline=None, max_examples=12, derandomize=True)
@given(right=st.integers(-3, 3), down=st.integers(-3, 3))
def test_translations_by_multiples_of_the_stride_commute_without_padding(right, down):
    model, variables = small_network()
    images = noise(*LARGE)
    theta = translations([4.0], (60, 60), (right, down)).thetas
    result = network_error(model, variables, images, theta)
    assert (result.error < 1e-5).all()
    # Maps of 60, 26 and 10 positions, 1, 2 and 4 pixels apart; what moves out of them is lost.
    expected = [
        (1 - abs(4 * right / reach)) * (1 - abs(4 * down / reach)) for reach in (60, 2 * 26, 4 * 10)
    ]
    np.testing.assert_allclose(result.counted[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(("pixels", "commutes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (4, (1, 1, 1))])
def test_other_translations_do_not(pixels, commutes):
    model, variables = small_network()
    result = network_error(model, variables, noise(*LARGE), translations([pixels], (60, 60)).thetas)
    assert ((result.error[:, 0] < 1e-5) == np.array(commutes, bool)[:, None]).all()
    assert (result.error[np.array(commutes) == 0] > 0.1).all()


def test_a_map_is_not_warped_as_if_it_covered_the_image():
    model, variables = small_network()
    images, thetas = noise(*LARGE), translations([8.0], (60, 60)).thetas
    features = network_features(model, variables)
    right = {"0": network_geometry(model)["1"]}
    side = 60 / 26
    whole = Geometry((side, side), (side / 2 - 0.5,) * 2, (10, 10))  # 26 positions over 60 pixels
    options = {"margin": 0, "geometry": right}
    block = lambda x: features(x)["1"]  # noqa: E731
    assert (equivariance_error(block, images, thetas, **options).error < 1e-5).all()
    options["geometry"] = {"0": whole}
    assert (equivariance_error(block, images, thetas, **options).error > 0.1).all()


def test_padding_breaks_translations_at_the_edge_and_the_default_margin_leaves_it_out():
    blocks = (ConvBlock(4, 5, padding="SAME", pool=True), ConvBlock(4, 3, padding="SAME"))
    model = Network(blocks, Head(2))
    images = noise(*LARGE)
    variables = variables_of(model, images.shape)
    thetas = translations([2.0, 4.0], (60, 60), (1, -1)).thetas
    strict = network_error(model, variables, images, thetas)
    assert (strict.error < 1e-5).all()
    assert (strict.counted > 0.3).all()
    assert (network_error(model, variables, images, thetas, margin=0).error[1:] > 1e-2).all()


@pytest.fixture
def turned_bank():
    """A filter by chance, turned by 0, 90, 180 and 270 degrees, and pooled."""
    kernel = noise(5, 5, seed=3)
    bank = np.stack([np.rot90(kernel, turns) for turns in range(4)], -1)[:, :, None]
    return jax.jit(lambda x: nn.max_pool(convolution(bank)(x), (2, 2), (2, 2)))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact_once_channels_are_permuted_and_far_from_it_before(
    turned_bank, turns
):
    images = noise(2, 24, 24, 1)
    theta = affine.rotation(90.0 * turns)
    found = compare(turned_bank, images, theta)["0"]
    assert found.interior.all()
    np.testing.assert_allclose(np.roll(found.returned, -turns, -1), found.maps, atol=1e-4)
    assert (found.error > 0.5).all()
    assert (found.resampling < 1e-5).all()
    # The same by NumPy alone.
    turned = turned_bank(np.rot90(images, turns, (1, 2)))
    by_hand = np.roll(np.rot90(found.maps, turns, (1, 2)), turns, -1)
    np.testing.assert_allclose(turned, by_hand, atol=1e-5)

    def any_turn(x):
        return turned_bank(x).max(-1, keepdims=True)

    assert (compare(any_turn, images, theta)["0"].error < 1e-4).all()


def test_the_edge_bank_turns_with_the_image():
    images = noise(1, 12, 12, 1)
    turned = edge_maps(np.rot90(images, 1, (1, 2)))
    by_hand = np.roll(np.rot90(edge_maps(images), 1, (1, 2)), 1, -1)
    np.testing.assert_allclose(turned, by_hand, atol=1e-6)
    ramp = np.broadcast_to(np.arange(6.0)[:, None], (1, 6, 6))[..., None]  # brighter to the bottom
    np.testing.assert_allclose(edge_maps(ramp)[0, 0, 0], [0, 0, 0, 1])


def test_a_w_upside_down_is_an_m_whose_maps_are_in_other_channels():
    w = letter_w(40)
    np.testing.assert_allclose(w, w[:, ::-1], atol=1e-6)  # a W is its own mirror image
    assert np.abs(w - w[::-1]).max() == 1
    # A stroke starts at the upper left, none at the lower left.
    assert w[:14, :8].max() == 1
    assert w[28:, :8].max() == 0
    found = compare(edge_maps, w[None], affine.rotation(180.0))["0"]
    assert found.error[0] > 1.3
    np.testing.assert_allclose(np.roll(found.returned, 2, -1), found.maps, atol=1e-5)


# This project's networks


def test_the_features_of_a_network_are_what_its_head_sees():
    model, variables = small_network()
    images = noise(2, 28, 28, 1)
    maps = network_features(model, variables)(images)
    assert {name: each.shape for name, each in maps.items()} == {
        "0": (2, 28, 28, 1),
        "1": (2, 10, 10, 4),
        "2": (2, 2, 2, 4),
    }
    logits = model.apply(variables, maps["2"], method=lambda network, x: network.head(x))
    np.testing.assert_allclose(logits, model.apply(variables, images), atol=1e-5)


def test_a_transformer_in_the_network_stays_out_of_its_features():
    model, variables = small_network(variant="stn-c1")
    turning = jax.tree.map(lambda x: x, variables)
    turning["params"]["transformer"]["theta"]["bias"] += 0.3
    images = noise(2, 28, 28, 1)
    before, after = (network_features(model, each)(images) for each in (variables, turning))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), before, after))


# Families


def test_families_transform_an_image_as_documented():
    image = np.zeros((20, 30, 1), np.float32)
    image[10, 20] = 1

    def moved_to(family):
        warped = stn_jax.affine_transform(image, family.thetas[0])[..., 0]
        return np.stack(np.indices(warped.shape) * np.asarray(warped)).sum((1, 2)) / warped.sum()

    np.testing.assert_allclose(moved_to(translations([3.0], (20, 30))), [10, 23], atol=1e-4)
    up = translations([2.0], (20, 30), (0, -1))
    np.testing.assert_allclose(moved_to(up), [8, 20], atol=1e-4)
    # About (9.5, 14.5): half a pixel below and 5.5 to the right of it.
    np.testing.assert_allclose(moved_to(rotations([90.0], (20, 30))), [4, 15], atol=1e-4)
    np.testing.assert_allclose(moved_to(scalings([1.5])), [10.25, 22.75], atol=0.3)


def test_families_are_named_by_kind_unit_and_range():
    assert rotations([15, 90, 30]).name == "rotation by 15 to 90 degrees"
    assert translations([2.5], (8, 8)).name == "translation by 2.5 pixels"
    assert scalings([0.5, 2]).name == "scaling by 0.5 to 2"


# Bad input

IMAGES, THETAS = np.zeros((1, 8, 8, 1), np.float32), np.eye(2, 3, dtype=np.float32)[None]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES[0]}, ValueError, r"images have shape \(8, 8, 1\); expected \[B, H"),
        ({"images": IMAGES.astype(np.uint8)}, TypeError, "images have type uint8"),
        ({"thetas": THETAS[0]}, ValueError, r"thetas have shape \(2, 3\); expected \[K, 2, 3\]"),
        ({"thetas": THETAS[:0]}, ValueError, "K at least 1"),
        ({"thetas": 0 * THETAS}, ValueError, "expected a 2x3 matrix with an inverse"),
        ({"margin": -1}, ValueError, "margin is -1; expected 0 or more pixels"),
        ({"margin": float("nan")}, ValueError, "margin is nan"),
        ({"padding_mode": "wrap"}, ValueError, "padding_mode"),
        ({"features": lambda x: x.sum((1, 2, 3))}, ValueError, r"shape \(1,\) for depth 0"),
        ({"features": {"a": lambda x: x[:0]}}, ValueError, "for depth a; expected a map"),
        ({"geometry": {}}, ValueError, "geometry has no entry for depth 0"),
        ({"geometry": Geometry((1, 1), (0, 0), (0, 1))}, ValueError, "stride and field positive"),
        ({"geometry": (1, 0, 1)}, ValueError, r"geometry is \(1, 0, 1\); expected stride"),
    ],
)
def test_bad_input_is_rejected(change, error, message):
    features = change.pop("features", lambda x: x)
    inputs = {"images": IMAGES, "thetas": THETAS} | change
    with pytest.raises(error, match=message):
        equivariance_error(features, **inputs)
