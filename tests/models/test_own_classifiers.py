"""Classifiers of a user's own, and those chosen by an image's size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import stn_jax
from stn_jax.models import Classifier, ResidualBlock, classifiers, create_network
from stn_jax.models.recipes import ANY_DATA, CLASSIFIERS
from stn_jax.training import Config
from stn_jax.training.run import model_options
from stn_jax.warp import transforms


class Block(nn.Module):
    """Takes ``train``, unlike the head below."""

    features: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(self.features, (3, 3), 2)(x))
        return nn.Dropout(0.5)(x, deterministic=not train)


OWN = Classifier(
    [Block(4), Block(6), Block(8)], nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(5)])
)
IMAGES = jnp.asarray(np.random.default_rng(0).random((3, 20, 28, 3), np.float32))


@pytest.mark.thin
@pytest.mark.parametrize(
    ("variant", "warped"),
    [
        ("cnn", (20, 28, 3)),
        ("stn-c0", (20, 28, 3)),
        ("stn-c2", (5, 7, 6)),
        ("stn-sl3", (20, 28, 3)),
        ("stn-dl1", (20, 28, 3)),
    ],
)
def test_own_blocks_get_every_placement(variant, warped):
    network = create_network(OWN, variant)
    variables = jax.jit(network.init)(jax.random.key(0), IMAGES)
    logits, details = network.apply(variables, IMAGES, return_details=True)
    assert logits.shape == (3, 5)
    assert details.warped.shape == (3, *warped)
    # At the identity the transformer changes nothing.
    plain = create_network(OWN, "cnn")
    params = {k: v for k, v in variables["params"].items() if k != "transformer"}
    np.testing.assert_allclose(plain.apply({"params": params}, IMAGES), logits, atol=1e-5)
    dropped = network.apply(variables, IMAGES, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(dropped, logits)


def test_own_localization_and_options():
    localization = nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(7), nn.relu])
    network = create_network(
        OWN, "stn-sl1", localization=localization, downsample=2, transform="rotation"
    )
    variables = jax.jit(network.init)(jax.random.key(0), IMAGES)
    assert variables["params"]["transformer"]["theta"]["kernel"].shape == (7, 1)
    _, details = network.apply(variables, IMAGES, return_details=True)
    assert details.warped.shape == (3, 10, 14, 3)


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("stn-c4", {}, "'stn-c4', but the classifier has 3 blocks; expected a depth from 0 to 3"),
        ("stn", {}, "variant is 'stn'; expected cnn, or"),
        ("stn-c0", {"transform": "tps", "iterations": 2}, "does not compose"),
    ],
)
def test_networks_that_there_are_not(variant, options, message):
    with pytest.raises(ValueError, match=message):
        create_network(OWN, variant, **options)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((4, 9, 3), "small"),
        ((12, 12, 1), "small"),
        ((24, 40, 1), "mnist"),
        ((28, 28, 1), "mnist"),
        ((48, 64, 4), "svhn"),
    ],
)
def test_a_classifier_is_chosen_that_fits(shape, name):
    assert classifiers.fitting(shape) == name
    model = stn_jax.create_model("affine", "stn-sl1", classifier=name, width=1 / 16, classes=7)
    images = jnp.ones((2, *shape))
    logits = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images)
    assert logits.shape == (2, 7)


def test_blocks_are_kernel_features_and_pooling():
    blocks = [(5, 32, 1), (3, 64, 0), (1, 6, 1)]
    model = stn_jax.create_model("plain", "stn-c3", blocks=blocks, width=0.5, classes=3)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 12, 16, 2)))["params"]
    kernels = [params[f"blocks_{i}"]["conv"]["kernel"].shape for i in range(3)]
    assert kernels == [(5, 5, 2, 16), (3, 3, 16, 32), (1, 1, 32, 3)]
    assert params["head"]["logits"]["kernel"].shape == (3 * 4 * 3, 3)
    small = stn_jax.create_model("plain", "cnn", classifier="small")
    same = stn_jax.create_model("plain", "cnn", blocks=[(5, 32, 1), (3, 64, 1)])
    assert small == same


def test_networks_for_any_data_are_the_same():
    models = [stn_jax.create_model(task, "stn-sl1") for task in ANY_DATA]
    assert all(model == models[0] for model in models)
    assert set(CLASSIFIERS) == {"small", "mnist", "svhn", "residual"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [(5, 32)]}, r"blocks has \(5, 32\); expected \(kernel size, features"),
        ({"blocks": [(5, 32, 2)]}, "0 or 1 for pooling"),
        ({"blocks": [(0, 32, 1)]}, "blocks has"),
        (
            {"classifier": "large"},
            "expected one of small, mnist, svhn, residual",
        ),
    ],
)
def test_blocks_and_classifiers_that_there_are_not(options, message):
    with pytest.raises(ValueError, match=message):
        stn_jax.create_model("plain", "cnn", **options)
    with pytest.raises(ValueError, match="whose classifier is its own"):
        stn_jax.create_model("svhn", "cnn", classifier="mnist")


RESIDUAL = {"classifier": "residual", "width": 1 / 8, "classes": 3}


@pytest.mark.thin("stn-c3")
@pytest.mark.parametrize("variant", ["cnn", "stn-c0", "stn-c3", "stn-sl2", "stn-sl4", "stn-dl1"])
def test_a_residual_classifier_gets_every_placement(variant):
    model = stn_jax.create_model("affine", variant, **RESIDUAL)
    images = IMAGES[:, :8, :13]  # no smaller ones
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def loss(params):
        logits, details = model.apply({"params": params}, images, return_details=True)
        return jnp.square(logits).sum(), (logits, details.warped)

    grads, (logits, warped) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert logits.shape == (3, 3)
    assert warped.shape == ((3, 2, 3, 8) if variant == "stn-c3" else images.shape)
    # At the start residual branches are zero, and their last convolutions learn first.
    for i in (1, 2, 3):
        block = grads[f"blocks_{i}"]
        assert np.abs(block["conv_1"]["kernel"]).max() > 0
        assert np.abs(block["conv_0"]["kernel"]).max() == 0
    if variant != "cnn":
        assert np.abs(grads["transformer"]["theta"]["bias"]).max() > 0


def test_a_residual_block_starts_as_its_shortcut():
    block = ResidualBlock(3, pool=True)
    x = jnp.maximum(IMAGES - 0.5, 0)
    variables = block.init(jax.random.key(0), x)
    np.testing.assert_allclose(block.apply(variables, x), nn.max_pool(x, (2, 2), (2, 2)), atol=1e-6)
    params = variables["params"]
    assert set(params) == {"conv_0", "conv_1"}  # no shortcut layer for as many channels
    params["conv_1"]["kernel"] = params["conv_0"]["kernel"]
    y = nn.Conv(3, (3, 3)).apply({"params": params["conv_0"]}, x)
    y = nn.Conv(3, (3, 3)).apply({"params": params["conv_1"]}, nn.relu(y))
    expected = nn.max_pool(nn.relu(x + y), (2, 2), (2, 2))
    np.testing.assert_allclose(block.apply(variables, x), expected, atol=1e-5)


def test_the_residual_classifier_has_as_many_parameters_for_any_size():
    model = stn_jax.create_model("plain", "cnn", classifier="residual")
    for side in (8, 50):
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, side, side, 1)))
        assert sum(x.size for x in jax.tree.leaves(variables)) == 307_402
    with pytest.raises(ValueError, match="a map of 1x2 is too small for pooling by 2"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 7, 8, 1)))


@pytest.mark.parametrize("classifier", ["small", "residual"])
@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 12, 14, 3), r"images.mean\(-1, keepdims=True\)"),
        ((2, 1, 12, 14), "the channels must be the last axis"),
        ((2, 12, 14, 2), "takes 1\n"),
    ],
)
def test_images_with_other_channels_are_refused(classifier, shape, hint):
    model = stn_jax.create_model("plain", "stn-sl1", classifier=classifier, width=1 / 16)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 12, 14, 1)))
    text = (
        rf"shape \({', '.join(map(str, shape))}\), with {shape[-1]} channels; this network .*{hint}"
    )
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(model.apply, variables, jnp.ones(shape))


def test_named_rotations_of_oblong_images_keep_their_angles():
    named = stn_jax.create_model("plain", "stn-c0", transform="rotation", aspect=1.5)
    assert named.transformer.family() == transforms.Rotation(aspect=1.5)
    assert stn_jax.create_model("plain", "stn-c0", aspect=1.5).transformer.transform == "affine"
    config = Config(task="affine", variant="stn-c0", transform="similarity", aspect=1.5)
    model = stn_jax.create_model("affine", "stn-c0", **model_options(config, 3, (20, 30, 1)))
    assert model.transformer.family() == transforms.Similarity(aspect=1.5)
    square = dataclasses.replace(config, aspect=1.0)
    assert "aspect" not in model_options(square, 3, (20, 20, 1))
