"""Families of transforms in networks: where they start, what learns, what downstream gets."""

import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from stn_jax import SpatialTransformer, create_model, grid_sample
from stn_jax.models import DenseLocalization, Head, Network, Variant
from stn_jax.models.transformer_network import Stack
from stn_jax.warp import transforms
from stn_jax.warp.transforms import FAMILIES, Projective, Rotation, ThinPlateSpline

PLACEMENTS = ("stn-c0", "stn-c1", "stn-sl1", "stn-dl1")
IMAGES = jax.random.normal(jax.random.key(7), (2, 8, 8, 1))
LOOK = DenseLocalization((8,))
mnist = partial(create_model, "rotated_mnist")


class Block(nn.Module):
    """As little as a classifier's block can be; these networks compile in no time."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.relu(nn.Dense(3)(x))


def small(variant: str, **options) -> Network:
    """The network that create_model makes, of small blocks."""
    kind = Variant.parse(variant).kind
    blocks, head = (Block(), Block()), Head(3)
    if kind is None:
        return Network(blocks, head)
    localization = Stack((Block(),), LOOK) if kind == "dl" else LOOK
    transformer = SpatialTransformer(
        localization, padding_mode="border", align_corners=True, **options
    )
    made = mnist(variant)
    return Network(blocks, head, transformer, made.warp_depth, made.localization_depth)


@functools.cache
def initial(variant: str, name: str) -> dict:
    return jax.jit(small(variant, transform=name).init)(jax.random.key(0), IMAGES)["params"]


def moved(params: dict) -> dict:
    """The parameters with a layer to theta that is not zero, so that the warp matters."""
    theta = params["transformer"]["theta"]
    kernel = 0.1 * jax.random.normal(jax.random.key(3), theta["kernel"].shape)
    return {
        **params,
        "transformer": {**params["transformer"], "theta": {**theta, "kernel": kernel}},
    }


@pytest.mark.thin
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("variant", PLACEMENTS)
def test_networks_start_as_their_plain_classifier_and_can_learn(variant, name):
    model, family, params = small(variant, transform=name), FAMILIES[name](), initial(variant, name)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logits, details = model.apply({"params": params}, IMAGES, return_details=True)
        return (logits**2).sum(), (logits, details.theta)

    (_, (logits, theta)), gradient = loss(params)
    plain = {k: v for k, v in params.items() if k != "transformer"}
    expected = jax.jit(small("cnn").apply)({"params": plain}, IMAGES)
    chex.assert_trees_all_close(logits, expected, atol=1e-5)
    identity = family.theta(np.zeros((2, family.size), np.float32))
    np.testing.assert_array_equal(theta, identity)
    # The layer to theta learns first; zeros in it keep the gradient from what is before.
    assert np.all(np.asarray(gradient["transformer"]["theta"]["bias"]) != 0)

    (_, (logits, theta)), gradient = loss(moved(params))
    assert float(jnp.abs(logits - expected).max()) > 1e-3
    assert float(jnp.abs(theta - identity).max()) > 1e-2
    for leaf in jax.tree.leaves(gradient["transformer"]):
        assert np.isfinite(leaf).all()
        assert np.any(np.asarray(leaf) != 0)


@pytest.mark.thin
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("variant", PLACEMENTS)
def test_the_studys_networks_take_every_family(variant, name):
    images, family = jnp.zeros((2, 28, 28, 1)), FAMILIES[name]()
    model = mnist(variant, transform=name)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    chex.assert_shape(variables["params"]["transformer"]["theta"]["kernel"], (32, family.size))
    _, details = jax.eval_shape(partial(model.apply, return_details=True), variables, images)
    chex.assert_shape(details.theta, (2, *family.theta(np.zeros(family.size)).shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].composable])
def test_iterations_compose_within_the_family_and_resample_the_input(name):
    twice, once = (small("stn-c0", transform=name, iterations=n) for n in (2, 1))
    family, variables = transforms.resolve(name), {"params": moved(initial("stn-c0", name))}
    forward = jax.jit(partial(once.apply, return_details=True))
    first = forward(variables, IMAGES)[1]
    second = forward(variables, first.warped)[1]
    details = jax.jit(partial(twice.apply, return_details=True))(variables, IMAGES)[1]
    expected = family.compose(first.theta, second.theta)
    chex.assert_trees_all_close(details.theta, expected, atol=1e-6)
    assert float(jnp.abs(expected - first.theta).max()) > 1e-3
    grid = family.grid_of(expected, (8, 8), align_corners=True)
    warped = grid_sample(IMAGES, grid, padding_mode="border", align_corners=True)
    chex.assert_trees_all_close(details.warped, warped, atol=1e-5)


def test_splines_cannot_be_iterated():
    with pytest.raises(ValueError, match=r"transform is 'tps', which does not compose, and iter"):
        mnist("stn-sl1", transform="tps", iterations=2)
    module = SpatialTransformer(nn.Dense(8), transform=ThinPlateSpline(3), iterations=3)
    with pytest.raises(ValueError, match="and iterations is 3; expected 1, or another transform"):
        module.init(jax.random.key(0), IMAGES)


def test_an_object_brings_its_settings():
    model = mnist("stn-c0", transform=ThinPlateSpline(points=3))
    images = jnp.zeros((2, 28, 28, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    chex.assert_shape(variables["params"]["transformer"]["theta"]["bias"], (18,))
    _, details = jax.eval_shape(partial(model.apply, return_details=True), variables, images)
    chex.assert_shape(details.theta, (2, 3, 3, 2))
    assert mnist("stn-c0", transform=Rotation(aspect=2.0)).transformer.family().aspect == 2


def test_the_warp_is_that_of_plain_use():
    module = SpatialTransformer(LOOK, shape=(5, 7), transform="projective", mode="bicubic")
    variables = jax.jit(module.init)(jax.random.key(0), IMAGES)
    bias = jax.random.uniform(jax.random.key(1), (8,), minval=-0.2, maxval=0.2)
    params = {**variables["params"], "theta": {"kernel": jnp.zeros((8, 8)), "bias": bias}}
    warped, theta = module.apply({"params": params}, IMAGES, return_theta=True)
    chex.assert_trees_all_close(theta, jnp.stack([Projective().theta(bias)] * 2))
    expected = grid_sample(IMAGES, Projective().grid(bias, (5, 7)), mode="bicubic")
    chex.assert_trees_all_close(warped, expected, atol=1e-6)


def test_volumes_support_only_affine_transforms():
    volumes = jnp.zeros((2, 4, 6, 8, 1))
    (_, theta), _ = SpatialTransformer(LOOK).init_with_output(
        jax.random.key(0), volumes, return_theta=True
    )
    np.testing.assert_array_equal(theta, np.stack([np.eye(3, 4)] * 2))
    with pytest.raises(ValueError, match="'similarity', which is for images; for volumes use"):
        SpatialTransformer(LOOK, transform="similarity").init(jax.random.key(0), volumes)


@pytest.mark.parametrize("variant", ["cnn", "stn-sl1"])
def test_unknown_families_are_named_in_the_error(variant):
    with pytest.raises(ValueError, match="transform is 'homography'; expected one of rotation, "):
        mnist(variant, transform="homography")
    with pytest.raises(TypeError, match="transform is 3; expected a Transform or one of rotation"):
        mnist(variant, transform=3)
