"""A batch's gradient: clipped over the whole of it, and the same however it is divided."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from stn_jax import SpatialTransformer
from stn_jax.models import ConvBlock, DenseLocalization, Head, Network
from stn_jax.training import Config
from stn_jax.training.assemble import assemble
from stn_jax.training.gradients import clip_by_ratio, value_and_grad
from stn_jax.training.step import Metrics, make_train_steps


def with_clipping(ratio: float):
    """The same in one pass, for a batch at once: clipping within the backward pass."""

    @jax.custom_vjp
    def identity(x):
        return x

    def backward(_, gradient):
        norms = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
        return (gradient * jnp.minimum(1, ratio * norms.mean() / jnp.maximum(norms, 1e-30)),)

    identity.defvjp(lambda x: (x, None), backward)

    def intercept(method, args, kwargs, context):
        result = method(*args, **kwargs)
        return identity(result) if context.method_name == "parameters" else result

    return nn.intercept_methods(intercept)


class TestClipping:
    images = jax.random.normal(jax.random.key(0), (6, 12, 12, 2))
    weights = jnp.array([0.0, 1, 1, 2, 3, 50]) / 1000  # the last one would drown the others

    def loss(self, module):
        def loss_fn(params, part):
            images, weights = part
            warped, theta = module.apply({"params": params}, images, return_theta=True)
            losses = weights * (warped * images[:, ::-1]).sum((1, 2, 3))
            return losses.mean(), (warped.mean(), theta)

        return loss_fn

    def module(self, iterations: int):
        look = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(8), nn.tanh])
        module = SpatialTransformer(look, iterations=iterations)
        params = jax.jit(module.init)(jax.random.key(1), self.images)["params"]
        params["theta"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(2), (8, 6))
        return module, params

    @pytest.mark.slow
    @pytest.mark.parametrize("iterations", [1, 2])
    @pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 100.0])
    def test_in_parts_and_at_once(self, ratio, iterations):
        module, params = self.module(iterations)
        loss_fn, batch = self.loss(module), (self.images, self.weights)
        plain = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, batch)
        (loss, (mean, theta)), expected = plain
        if ratio:
            with with_clipping(ratio):
                expected = jax.jit(jax.grad(lambda *args: loss_fn(*args)[0]))(params, batch)
        for size in (6, 3, 1):
            found = jax.jit(
                lambda size=size: value_and_grad(loss_fn, params, batch, size=size, ratio=ratio)
            )()
            chex.assert_trees_all_close(
                found, ((loss, mean, expected), theta), rtol=1e-4, atol=1e-5
            )
        moved = float(jnp.abs(expected["theta"]["bias"] - plain[1]["theta"]["bias"]).max())
        assert (moved > 1e-3) == (0 < ratio <= 1)

    @pytest.mark.slow
    def test_each_images_gradient_is_clipped(self):
        module, params = self.module(1)
        loss_fn = self.loss(module)

        def of_one(i):
            one = self.images[i : i + 1], self.weights[i : i + 1]
            return jax.grad(lambda params: loss_fn(params, one)[0])(params)["theta"]["bias"]

        each = np.stack([np.asarray(of_one(i), np.float64) for i in range(6)])
        norms = np.linalg.norm(each, axis=1)
        factors = np.minimum(1, 0.5 * norms.mean() / np.maximum(norms, 1e-30))
        (_, _, found), _ = value_and_grad(
            loss_fn, params, (self.images, self.weights), size=2, ratio=0.5
        )
        expected = (factors[:, None] * each).mean(0)
        np.testing.assert_allclose(found["theta"]["bias"], expected, rtol=1e-4, atol=1e-6)
        assert factors.min() < 0.3

    def test_no_gradient_at_all_stays_so(self):
        found = jax.jit(lambda x: clip_by_ratio(x, 1.0))(jnp.zeros((4, 3)))
        np.testing.assert_array_equal(found, 0)

    def test_clipping_a_whole_batch_costs_nothing(self):
        """XLA merges the passes: their operations are those of one."""
        module, params = self.module(1)
        loss_fn, batch = self.loss(module), (self.images, self.weights)

        def operations(ratio):
            fn = jax.jit(lambda *args: value_and_grad(loss_fn, *args, size=6, ratio=ratio))
            options = {"xla_backend_optimization_level": 3}
            return fn.lower(params, batch).compile(options).cost_analysis()["flops"]

        assert operations(1.0) < 1.05 * operations(0.0)


@pytest.mark.slow
def test_training_in_parts_is_training_at_once(tiny_cache):
    """With dropout, clipping and two looks, as for house numbers; two seeds."""
    config = Config(
        cache_dir=str(tiny_cache),
        batch_size=48,
        epochs=2,
        seeds=(0, 3),
        learning_rate=0.2,
        localization_optimizer="sgd",  # Adam makes whole steps of what rounding leaves of 0
    )
    model = Network(
        (ConvBlock(4, 5, pool=True, dropout=0.5), ConvBlock(4, 3, pool=True, dropout=0.5)),
        Head(10, hidden=(16,), dropout=0.5),
        SpatialTransformer(DenseLocalization((8,)), iterations=2, align_corners=True),
        localization_depth=1,
    )
    run = dataclasses.replace(assemble(config), model=model)

    def after(size: int, ratio: float = 0.5):
        steps = make_train_steps(
            model,
            run.optimizer,
            run.task,
            seeds=config.seeds,
            batch_size=48,
            microbatch=size,
            theta_clip=ratio,
        )
        state, sums = steps(run.init_state(), Metrics.empty(model, 2), run.data, jnp.int32(3))
        return state["params"], sums

    whole = after(0)
    for size in (16, 1):
        params, sums = after(size)
        chex.assert_trees_all_close(params, whole[0], atol=2e-5)
        chex.assert_trees_all_close(sums, whole[1], rtol=1e-4)
    unclipped = after(0, ratio=0)[0]["transformer"]
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), whole[0]["transformer"], unclipped)
    assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize(
    ("variant", "theta_clip", "microbatch", "expected"),
    [
        ("stn-sl1", 0.0, 0, 64),
        ("stn-sl1", 1.0, 0, 256),  # parts would cost more than they save
        ("cnn", 1.0, 0, 64),
        ("stn-sl1", 1.0, 32, 32),
    ],
)
def test_how_many_are_taken_at_once_on_a_cpu(tiny_cache, variant, theta_clip, microbatch, expected):
    config = Config(
        cache_dir=str(tiny_cache), variant=variant, theta_clip=theta_clip, microbatch=microbatch
    )
    assert assemble(config).microbatch == expected
