"""The spatial transformer as an NNX module, beside the Linen module with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.nnx import bridge

import stn_jax
import stn_jax.nnx
from stn_jax.warp.transforms import ThinPlateSpline


class Localization(nnx.Module):
    def __init__(self, inputs, *, rngs):
        self.hidden = nnx.Linear(inputs, 8, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.hidden(x.reshape(len(x), -1)))


class LinenLocalization(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.relu(linen.Dense(8, name="hidden")(x.reshape(len(x), -1)))


def random_images(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def transformer(inputs=12 * 10 * 2, *, scale=0.1, **options):
    """A transformer that has left the identity."""
    module = stn_jax.nnx.SpatialTransformer(
        Localization(inputs, rngs=nnx.Rngs(1)), 8, rngs=nnx.Rngs(0), **options
    )
    kernel = module.theta.kernel
    kernel[...] = scale * jax.random.normal(jax.random.key(2), kernel.shape, kernel.dtype)
    return module


def linen_variables(module):
    return {"params": nnx.to_pure_dict(nnx.state(module, nnx.Param))}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shape": (5, 7), "padding_mode": "border", "align_corners": True},
        {"downsample": 2, "crop_fraction": 0.5, "mode": "bicubic"},
        {"iterations": 3, "transform": "similarity"},
        {"transform": "projective", "mode": "nearest"},
        {"transform": ThinPlateSpline(3), "padding_mode": "reflection"},
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
def test_numbers_are_those_of_the_linen_module(options):
    images = random_images(3, 12, 10, 2)
    module = transformer(**options)
    reference = stn_jax.SpatialTransformer(LinenLocalization(), **options)
    warped, theta = module(images, return_theta=True)
    expected = reference.apply(linen_variables(module), images, return_theta=True)
    np.testing.assert_allclose(theta, expected[1], atol=1e-6)
    np.testing.assert_allclose(warped, expected[0], atol=1e-5)
    np.testing.assert_array_equal(module(images), warped)
    assert float(jnp.abs(theta - theta[:1]).max()) > 1e-3


def test_volumes():
    volumes = random_images(2, 4, 5, 6, 1)
    module = transformer(4 * 5 * 6, num_spatial_dims=3)
    warped, theta = module(volumes, return_theta=True)
    np.testing.assert_allclose(warped, stn_jax.affine_transform(volumes, theta), atol=1e-6)
    assert theta.shape == (2, 3, 4)


def test_it_starts_at_the_identity():
    images = random_images(3, 12, 10, 2)
    module = stn_jax.nnx.SpatialTransformer(
        Localization(12 * 10 * 2, rngs=nnx.Rngs(1)), 8, rngs=nnx.Rngs(0)
    )
    np.testing.assert_allclose(module(images), images, atol=1e-6)


def test_in_two_steps_and_from_features_of_ones_own():
    images = random_images(3, 12, 10, 2)
    module = transformer(60)

    def features(view):
        return view[:, ::2, ::2]

    warped, theta = module(images, features, return_theta=True)
    predicted = module.predict(features(images))
    np.testing.assert_array_equal(predicted, theta)
    np.testing.assert_array_equal(module.warp(images, predicted), warped)


def test_one_image():
    image = random_images(12, 10, 2)
    module = transformer(shape=(6, 5))
    warped, theta = module(image, return_theta=True)
    assert (warped.shape, theta.shape) == ((6, 5, 2), (2, 3))
    batch = module(image[None], return_theta=True)
    np.testing.assert_array_equal(warped, batch[0][0])
    np.testing.assert_array_equal(theta, batch[1][0])
    np.testing.assert_allclose(module.warp(image, theta), warped, atol=1e-6)


def test_gradients_are_those_of_the_linen_module():
    images = random_images(3, 12, 10, 2)
    module = transformer(iterations=2)
    reference = stn_jax.SpatialTransformer(LinenLocalization(), iterations=2)

    def loss(warped):
        return (warped**2).sum()

    gradients = nnx.grad(lambda module: loss(module(images)))(module)
    expected = jax.grad(lambda v: loss(reference.apply(v, images)))(linen_variables(module))
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g, e, atol=1e-3 * float(jnp.abs(e).max())),
        nnx.to_pure_dict(gradients),
        expected["params"],
    )
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(expected))


def test_split_merge_and_jit():
    images = random_images(3, 12, 10, 2)
    module = transformer()
    definition, state = nnx.split(module)
    merged = nnx.merge(definition, jax.tree.map(jnp.copy, state))
    expected = module(images)
    np.testing.assert_array_equal(merged(images), expected)
    compiled = nnx.jit(lambda module, x: module(x))
    np.testing.assert_allclose(compiled(module, images), expected, atol=1e-5)


def test_networks_of_several_seeds_under_vmap():
    images = random_images(3, 12, 10, 2)

    @nnx.vmap(in_axes=0, out_axes=0)
    def create(key):
        rngs = nnx.Rngs(key)
        module = stn_jax.nnx.SpatialTransformer(Localization(240, rngs=rngs), 8, rngs=rngs)
        module.theta.bias[...] = jax.random.normal(rngs(), (6,)) / 10
        return module

    modules = create(jax.random.split(jax.random.key(0), 2))
    warped = nnx.vmap(lambda module, x: module(x), in_axes=(0, None))(modules, images)
    definition, states = nnx.split(modules)
    for i in range(2):
        one = nnx.merge(definition, jax.tree.map(lambda leaf, i=i: leaf[i], states))
        np.testing.assert_allclose(warped[i], one(images), atol=1e-5)
    assert float(jnp.abs(warped[0] - warped[1]).max()) > 1e-3


def test_parameters_survive_a_file(tmp_path):
    module, images = transformer(), random_images(3, 12, 10, 2)
    leaves, structure = jax.tree.flatten(nnx.state(module))
    np.savez(tmp_path / "state.npz", *map(np.asarray, leaves))
    with np.load(tmp_path / "state.npz") as stored:
        state = jax.tree.unflatten(structure, [jnp.asarray(stored[name]) for name in stored.files])
    other = stn_jax.nnx.SpatialTransformer(Localization(240, rngs=nnx.Rngs(7)), 8, rngs=nnx.Rngs(8))
    nnx.update(other, state)
    np.testing.assert_array_equal(other(images), module(images))


@pytest.mark.slow
def test_it_learns_to_undo_a_shift():
    """Squares at random places, and the loss says how far they are from the middle."""
    places = np.random.default_rng(0).integers(1, 9, size=(64, 2))
    images = np.zeros((64, 12, 12, 1), np.float32)
    for image, (y, x) in zip(images, places, strict=True):
        image[y : y + 3, x : x + 3] = 1
    images, target = jnp.asarray(images), jnp.zeros((12, 12, 1)).at[4:8, 4:8].set(1.0)
    rngs = nnx.Rngs(0)
    module = stn_jax.nnx.SpatialTransformer(
        Localization(144, rngs=rngs), 8, transform="attention", rngs=rngs
    )
    optimizer = nnx.Optimizer(module, optax.adam(0.02), wrt=nnx.Param)

    def loss(module):
        return ((module(images) - target) ** 2).mean()

    @nnx.jit
    def step(module, optimizer):
        value, gradients = nnx.value_and_grad(loss)(module)
        optimizer.update(module, gradients)
        return value

    before = float(loss(module))
    for _ in range(150):
        step(module, optimizer)
    assert float(loss(module)) < 0.6 * before


def test_poses_are_computed_in_float32_whatever_the_types():
    images = random_images(3, 12, 10, 2).astype(jnp.bfloat16)
    module = transformer(param_dtype=jnp.bfloat16)
    module.localization = lambda x: x.reshape(len(x), -1)[:, :8]
    warped, theta = module(images, return_theta=True)
    assert (warped.dtype, theta.dtype) == (jnp.bfloat16, jnp.float32)
    assert module.theta.kernel.dtype == jnp.bfloat16


def test_bad_arguments_are_refused():
    def make(features=8, **options):
        return stn_jax.nnx.SpatialTransformer(
            Localization(240, rngs=nnx.Rngs(0)), features, rngs=nnx.Rngs(0), **options
        )

    with pytest.raises(ValueError, match="features is 0; expected 1 or more"):
        make(0)
    with pytest.raises(ValueError, match="num_spatial_dims is 4; expected 2 or 3"):
        make(num_spatial_dims=4)
    with pytest.raises(ValueError, match="does not compose, and iterations is 2"):
        make(transform="tps", iterations=2)
    images = random_images(3, 12, 10, 2)
    with pytest.raises(ValueError, match=r"returned shape \(3, 8\); expected \[B, 9\]"):
        make(9)(images)
    with pytest.raises(ValueError, match=r"num_spatial_dims is 3; expected \[B, H, W, C\] for 2"):
        make(num_spatial_dims=3)(images)
    with pytest.raises(ValueError, match="iterations is 2; predict expects 1"):
        make(iterations=2).predict(images)


def test_a_linen_transformer_refuses_an_nnx_module():
    with pytest.raises(TypeError, match=r"a Localization, an nnx\.Module.*use stn_jax\.nnx\.Spa"):
        stn_jax.SpatialTransformer(Localization(240, rngs=nnx.Rngs(0)))


@pytest.mark.slow
def test_a_network_of_the_study_works_and_learns_through_the_bridge():
    images = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
    network = stn_jax.create_model("rotated_mnist", "stn-sl1", width=1 / 8)
    model = bridge.lazy_init(bridge.ToNNX(network, rngs=nnx.Rngs(0)), images)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    expected = network.apply({"params": params}, images)
    np.testing.assert_allclose(model(images), expected, atol=1e-6)

    def loss(model):
        return (model(images) ** 2).mean()

    before, gradients = nnx.value_and_grad(loss)(model)
    nnx.update(
        model,
        jax.tree.map(lambda p, g: p - 1e-3 * g, nnx.state(model, nnx.Param), gradients),
    )
    assert float(loss(model)) < float(before)


def test_rematerialized_gradients_are_the_same():
    images = random_images(3, 12, 10, 2)

    @nnx.remat
    def aligned(module, images):
        return module(images)

    def loss_of(align):
        return lambda module: (align(module, images) ** 2).sum()

    gradients = [
        nnx.jit(nnx.grad(loss_of(align)))(transformer())
        for align in (aligned, lambda module, images: module(images))
    ]
    one, other = (jax.tree.leaves(each) for each in gradients)
    assert len(one) == len(other) > 0
    for found, expected in zip(one, other, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
