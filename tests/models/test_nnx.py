"""The networks in NNX, through Flax's bridge."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx import bridge

import stn_jax


def test_a_network_works_and_learns_as_an_nnx_module():
    images = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
    linen = stn_jax.create_model("rotated_mnist", "stn-sl1", width=1 / 16)
    model = bridge.lazy_init(bridge.ToNNX(linen, rngs=nnx.Rngs(0)), images)
    logits = model(images)
    assert logits.shape == (4, 10)

    def loss(model):
        return (model(images) ** 2).mean()

    before, gradients = nnx.value_and_grad(loss)(model)
    nnx.update(
        model,
        jax.tree.map(lambda p, g: p - 1e-3 * g, nnx.state(model, nnx.Param), gradients),
    )
    assert float(loss(model)) < float(before)


def test_the_bridge_gives_the_same_numbers():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 28, 28, 1)), jnp.float32)
    linen = stn_jax.create_model("rotated_mnist", "stn-c0", width=1 / 16)
    model = bridge.lazy_init(bridge.ToNNX(linen, rngs=nnx.Rngs(0)), images)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    np.testing.assert_allclose(model(images), linen.apply({"params": params}, images), atol=1e-6)
