"""Networks with several spatial transformers, at one depth or at several."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import create_model
from stn_jax.analysis.network_equivariance import network_features
from stn_jax.models import DenseLocalization, Variant
from stn_jax.models.submodules import call_sequence
from stn_jax.models.transformer_network import is_transformer
from stn_jax.models.variants import transformer_names
from stn_jax.training import Config, train
from stn_jax.training.assemble import assemble

NAMES = ("stn-c0+c1", "stn-sl1+c1", "stn-c0+c0", "stn-sl2+dl1+c1+c2")


def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 28, 28, 1)), jnp.float32)


def moved(params):
    """Parameters whose transformers all do something."""

    def move(path, x):
        names = [getattr(key, "key", "") for key in path]
        if not is_transformer(names[0]) or names[-2:] != ["theta", "bias"]:
            return x
        return x + 0.1 * jax.random.normal(jax.random.key(len(names[0])), x.shape)

    return jax.tree_util.tree_map_with_path(move, params)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_as_the_plain_classifier(name):
    several = create_model("rotated_mnist", name, width=1 / 16)
    params = jax.jit(several.init)(jax.random.key(0), images())["params"]
    assert sum(map(is_transformer, params)) == name.count("+") + 1
    plain = create_model("rotated_mnist", "cnn", width=1 / 16)
    without = {key: value for key, value in params.items() if not is_transformer(key)}
    logits, details = several.apply({"params": params}, images(), return_details=True)
    expected = plain.apply({"params": without}, images())
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    chex.assert_shape(details.theta, (3, 2, 3))
    assert len(details.further) == name.count("+")


def test_each_warps_what_the_one_before_it_gave():
    model = create_model("rotated_mnist", "stn-sl1+c1", width=1 / 16)
    params = moved(jax.jit(model.init)(jax.random.key(0), images())["params"])
    logits, details = model.apply({"params": params}, images(), return_details=True)

    def in_steps(model, x):
        shared = model.blocks[:1]
        x, theta = model.transformer(
            x, features=lambda y: call_sequence(shared, y, False), return_theta=True
        )
        y = call_sequence(shared, x, False)
        (second,) = model.further_transformers
        z, further = second(y, return_theta=True)
        return theta, x, further, z, model.head(call_sequence(model.blocks[1:], z, False))

    expected = model.apply({"params": params}, images(), method=in_steps)
    chex.assert_trees_all_close(
        (details.theta, details.warped, *details.further[0], logits), expected, atol=1e-5
    )
    assert float(jnp.abs(details.further[0][0] - details.theta).max()) > 0.01


@pytest.mark.slow
def test_a_further_transformer_that_rests_changes_nothing():
    one = create_model("translated_mnist", "stn-c0", width=1 / 16)
    two = create_model("translated_mnist", "stn-c0+c1", width=1 / 16)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 60, 60, 1)), jnp.float32)
    params = jax.jit(two.init)(jax.random.key(0), x)["params"]
    params["transformer"] = moved(params)["transformer"]
    logits, details = two.apply({"params": params}, x, return_details=True)
    fewer = {key: value for key, value in params.items() if not key.startswith("further")}
    np.testing.assert_allclose(one.apply({"params": fewer}, x), logits, atol=1e-4)
    assert details.warped.shape == (2, 30, 30, 1)  # the first one halves, the second does not


@pytest.mark.slow
def test_all_of_them_learn():
    model = create_model("rotated_mnist", "stn-sl1+c1", width=1 / 16)
    params = moved(jax.jit(model.init)(jax.random.key(0), images())["params"])
    gradients = jax.grad(lambda p: (model.apply({"params": p}, images()) ** 2).sum())(params)
    for key in filter(is_transformer, gradients):
        assert float(jnp.abs(gradients[key]["theta"]["kernel"]).max()) > 0


def test_a_given_localization_network_has_parameters_in_each():
    model = create_model("rotated_mnist", "stn-c0+c0", localization=DenseLocalization((8,)))
    params = jax.jit(model.init)(jax.random.key(0), images())["params"]
    first, second = params["transformer"], params["further_transformers_0"]
    chex.assert_trees_all_equal_shapes(first, second)
    assert "localization" in first
    kernels = [x["localization"]["dense_0"]["kernel"] for x in (first, second)]
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clip", "variant"), [(0.0, "stn-c0+c1"), (1.0, "stn-c0+c1"), (1.0, "stn-c0x2")]
)
def test_a_training(tiny_config, tmp_path, clip, variant):
    config = Config(**tiny_config | {"variant": variant, "theta_clip": clip})
    result = train(config, tmp_path)
    assert result["variant"] == variant
    run = assemble(config)
    assert set(filter(is_transformer, run.init_state()["params"])) == {
        "transformer",
        "further_transformers_0",
    }


@pytest.mark.parametrize("name", ["stn-c1+c0", "cnn+c0", "stn-c0+cnn", "stn-c0+", "stn-c0+stn-c1"])
def test_invalid_names(name):
    with pytest.raises(ValueError, match=r"variant is .*; expected"):
        Variant.parse_all(name)
    with pytest.raises(ValueError, match=r"variant is .*; expected"):
        create_model("rotated_mnist", name)


def test_depths_beyond_the_classifier():
    with pytest.raises(ValueError, match=r"has 2 blocks; expected a depth from 0 to 2"):
        create_model("rotated_mnist", "stn-c0+c3")


PARALLEL = ("stn-c0x2", "stn-c1x3", "stn-dl1x2", "stn-c0x2+c1", "stn-c0+c1x2")


@pytest.mark.parametrize("name", PARALLEL)
def test_outputs_in_parallel_are_stacked_along_the_channels(name):
    model = create_model("rotated_mnist", name, width=1 / 16)
    params = moved(jax.jit(model.init)(jax.random.key(0), images())["params"])
    logits, details = model.apply({"params": params}, images(), return_details=True)

    def in_steps(model, x):
        transformers = [model.transformer, *model.further_transformers]
        found, depth = [], 0
        for part in Variant.parse_all(name):
            x = call_sequence(model.blocks[depth : part.warp_depth], x, False)
            depth = part.warp_depth
            steps = [transformers.pop(0)(x, return_theta=True) for _ in range(part.count)]
            x = jnp.concatenate([warped for warped, _ in steps], -1)
            found += [(theta, warped) for warped, theta in steps]
        return model.head(call_sequence(model.blocks[depth:], x, False), False), found

    expected, steps = model.apply({"params": params}, images(), method=in_steps)
    chex.assert_trees_all_close(logits, expected, atol=1e-5)
    pairs = [(details.theta, details.warped), *details.further]
    chex.assert_trees_all_close(pairs, steps, atol=1e-5)
    thetas = jnp.stack(details.thetas)
    assert float(jnp.abs(thetas[:, None] - thetas).max((2, 3, 4))[0, 1]) > 0.01  # not the same


def test_transformers_in_parallel_learn_to_differ():
    model = create_model("rotated_mnist", "stn-c0x2", width=1 / 16)
    params = jax.jit(model.init)(jax.random.key(0), images())["params"]
    kernel = params["blocks_0"]["conv"]["kernel"]
    assert kernel.shape[2] == 2  # the first layer sees both outputs
    slopes = jax.grad(lambda p: (model.apply({"params": p}, images()) ** 2).sum())(params)
    pair = [slopes[key]["theta"]["bias"] for key in ("transformer", "further_transformers_0")]
    assert min(float(jnp.abs(each).max()) for each in (*pair, pair[0] - pair[1])) > 1e-3


@pytest.mark.parametrize("name", ["stn-sl1x2", "stn-c0x1", "stn-c0x0", "stn-c0x10", "cnnx2"])
def test_invalid_names_of_parallel_transformers(name):
    with pytest.raises(ValueError, match=r"variant is .*; expected"):
        Variant.parse(name)


def test_names():
    assert transformer_names("stn-c0x2+dl1+c1") == ["c0, 1 of 2", "c0, 2 of 2", "dl1", "c1"]
    assert transformer_names("cnn") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": (2, 1)}, r"parallel is \(2, 1\); expected .* 2"),
        ({"parallel": (2, 0)}, r"parallel is \(2, 0\); expected"),
        ({"parallel": (2,), "further_depths": ((0, 1),)}, r"have depths \[0, 1\]; expected"),
    ],
)
def test_networks_that_cannot_be(options, message):
    model = create_model("rotated_mnist", "stn-c0x2", width=1 / 16).clone(**options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), images())


def test_feature_maps_of_transformers_in_parallel_are_those_at_rest():
    model = create_model("rotated_mnist", "stn-c0x2+c1x2", width=1 / 16)
    variables = jax.jit(model.init)(jax.random.key(0), images())
    maps = network_features(model, variables)(images())
    details = model.apply(variables, images(), return_details=True)[1]
    np.testing.assert_allclose(maps["0"], details.warped, atol=1e-5)
    np.testing.assert_allclose(maps["1"], details.further[1][1], atol=1e-4)
    with pytest.raises(ValueError, match="with 3 channels; this network takes 1"):
        model.apply(variables, jnp.repeat(images(), 3, -1))
