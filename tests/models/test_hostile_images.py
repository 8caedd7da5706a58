"""Networks of odd batches: an answer, or an error that says what to change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax

NETWORKS = [
    ("rotated_mnist", "cnn", 28),
    ("rotated_mnist", "stn-sl1", 28),
    ("rotated_mnist", "stn-c1", 28),
    ("translated_mnist", "stn-c0", 60),
    ("translated_mnist", "stn-dl1", 60),
]


@pytest.fixture(params=NETWORKS, ids=lambda p: "/".join(map(str, p[:2])))
def network(request):
    task, variant, side = request.param
    module = stn_jax.create_model(task, variant, width=1 / 16)
    image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    return module, jax.tree.map(lambda x: np.full(x.shape, 0.01, x.dtype), shapes), side


def test_an_empty_batch_has_no_logits_and_no_gradient(network):
    module, variables, side = network
    none = jnp.zeros((0, side, side, 1))

    @jax.jit
    def both(variables):
        return jax.vjp(lambda v: module.apply(v, none), variables)[0], jax.grad(
            lambda v: module.apply(v, none).sum()
        )(variables)

    logits, gradient = both(variables)
    assert logits.shape == (0, 10)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "message"),
    [
        ((28, 28, 1), "float32", ValueError, r"images has shape \(28, 28, 1\); expected \[B, H, W"),
        ((1, 2, 28, 28, 1), "float32", ValueError, r"expected \[B, H, W, C\]"),
        ((2, 28, 28, 1), "uint8", TypeError, "images has type uint8; expected floating point"),
        ((2, 1, 1, 1), "float32", ValueError, "a map of 1x1 is too small for a 9x9 convolution"),
        ((2, 0, 0, 1), "float32", ValueError, "a map of 0x0 is too small for a 9x9 convolution"),
    ],
)
def test_images_that_do_not_fit_are_named(shape, dtype, kind, message):
    module = stn_jax.create_model("rotated_mnist", "cnn", width=1 / 16)
    with pytest.raises(kind, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))
