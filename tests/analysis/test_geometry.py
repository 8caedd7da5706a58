"""Where positions of feature maps lie: closed forms, measured ones, and what cannot be told."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from made_features import LARGE, convolution, noise, small_network, variables_of

from stn_jax.analysis.equivariance import translations
from stn_jax.analysis.geometry import Geometry, map_theta, measure_geometry
from stn_jax.analysis.network_equivariance import network_error, network_features, network_geometry
from stn_jax.models import Head, Network
from stn_jax.warp import affine


def test_the_geometry_of_the_study_s_networks():
    model, variables = small_network()
    known = network_geometry(model)
    # 9x9, pooled; 7x7 of those, pooled.
    assert known["1"] == Geometry((2, 2), (4.5, 4.5), (10, 10))
    assert known["2"] == Geometry((4, 4), (11.5, 11.5), (24, 24))
    features = network_features(model, variables)
    for side, depth in ((28, "1"), (28, "2"), (43, "2")):
        found = measure_geometry(lambda x, depth=depth: features(x)[depth], (side, side, 1))
        assert found == known[depth]


def test_the_geometry_of_networks_with_padding():
    model, variables = small_network("svhn_cropped", side=32, channels=3)
    known = network_geometry(model)
    # Pooled by 2 after the first, third, fifth and seventh block, each symmetric.
    strides = [1, 2, 2, 4, 4, 8, 8, 16, 16]
    assert [each.stride[0] for each in known.values()] == strides
    assert [each.offset[1] for each in known.values()] == [(s - 1) / 2 for s in strides]
    features = network_features(model, variables)
    for depth in ("1", "2"):
        found = measure_geometry(lambda x, depth=depth: features(x)[depth], (32, 32, 3))
        assert found == known[depth]
    with pytest.raises(ValueError, match="cannot be measured"):
        measure_geometry(lambda x: features(x)["5"], (32, 32, 3))


@pytest.mark.parametrize(
    ("shape", "kernel", "options", "expected"),
    [
        ((9, 11, 1), (3, 5, 1, 2), {}, ((1, 1), (1, 2), (3, 5))),
        ((20, 30, 2), (3, 4, 2, 3), {"strides": (2, 3)}, ((2, 3), (1, 1.5), (3, 4))),
        ((20, 20, 1), (3, 3, 1, 2), {"dilation": (2, 3)}, ((1, 1), (2, 3), (5, 7))),
        # XLA pads an even side by one pixel after the last, an odd one on both sides.
        (
            (28, 29, 1),
            (3, 3, 1, 2),
            {"strides": (2, 2), "padding": "SAME"},
            ((2, 2), (1, 0), (3, 3)),
        ),
        # A lone position.
        ((7, 7, 1), (7, 7, 1, 2), {}, ((7, 7), (3, 3), (7, 7))),
    ],
)
def test_geometry_is_measured(shape, kernel, options, expected):
    found = measure_geometry(convolution(noise(*kernel), **options), shape)
    assert found == Geometry(*expected)


@pytest.mark.parametrize(
    "features",
    [
        lambda x: x - x.mean((1, 2), keepdims=True),
        lambda x: x.repeat(2, 1).repeat(2, 2),
        jnp.zeros_like,
    ],
    ids=["depends on all", "finer than the image", "depends on nothing"],
)
def test_geometry_that_cannot_be_measured_is_rejected(features):
    with pytest.raises(ValueError, match=r"cannot be measured .* pass geometry="):
        measure_geometry(features, (8, 8, 1))


def test_a_block_of_another_kind_is_measured():
    class Average(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.avg_pool(x, (3, 3), (3, 3))

    model = Network((Average(),), Head(2))
    images = noise(*LARGE)
    variables = variables_of(model, images.shape)
    with pytest.raises(TypeError, match="block 1 is a Average; expected a ConvBlock"):
        network_geometry(model)
    result = network_error(model, variables, images, translations([3.0], (60, 60)).thetas)
    assert (result.error < 1e-5).all()
    np.testing.assert_allclose(result.counted[:, 0], [57 / 60, 19 / 20], rtol=1e-6)


def test_a_theta_of_the_image_in_the_map_s_coordinates():
    # 40 positions, a pixel apart, on 50 pixels: 80 %.
    geometry = Geometry((1, 1), (5, 5), (11, 11))
    theta = map_theta(affine.translation((0.2, 0.1)), geometry, (50, 50), (40, 40))
    np.testing.assert_allclose(theta, affine.translation((0.25, 0.125)), atol=1e-6)
    # About the image's center, which is not this map's.
    aside = Geometry((2, 2), (0, 0), (1, 1))
    theta = map_theta(affine.rotation(180.0), aside, (8, 8), (4, 4))
    # The map's positions 0, 2, 4, 6 are taken from 7, 5, 3, 1: from -0.5 + 4 = 3.5 on, backwards.
    np.testing.assert_allclose(theta, [[-1, 0, 0.25], [0, -1, 0.25]], atol=1e-6)
