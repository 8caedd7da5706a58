"""Modules in networks: who is told to train, and what Flax lifts."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from stn_jax import SpatialTransformer, create_model
from stn_jax.models import ConvBlock, Head, Network

DIGITS = jax.random.normal(jax.random.key(7), (3, 28, 28, 1))


class TestFlags:
    """Who has an argument ``train`` is told, and flags can be static arguments."""

    localization = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(8), nn.relu])

    def test_a_localization_network_may_have_no_train_argument(self):
        images = DIGITS
        for variant in ("stn-c0", "stn-c1", "stn-sl1", "stn-dl1"):
            model = create_model(
                "rotated_mnist", variant, width=1 / 16, localization=self.localization
            )
            (logits, details), _ = jax.eval_shape(
                lambda model=model: model.init_with_output(jax.random.key(0), images, True, True)
            )
            assert logits.shape == (3, 10)
            assert details.theta.shape == (3, 2, 3)

    @pytest.mark.parametrize("kind", ["keyword", "position", "sequential", "any", "function"])
    def test_a_localization_network_is_passed_the_train_flag(self, kind):
        told = []

        class Keyword(nn.Module):
            @nn.compact
            def __call__(self, x, *, train):
                told.append(train)
                return nn.Dense(4)(x.reshape(len(x), -1))

        class Position(Keyword):
            def __call__(self, x, train):
                return super().__call__(x, train=train)

        class Any(Keyword):
            def __call__(self, x, **options):
                return super().__call__(x, **options)

        def function(x, train):
            told.append(train)
            return x.reshape(len(x), -1)

        module = {
            "keyword": Keyword(),
            "position": Position(),
            "sequential": nn.Sequential([Position(), nn.relu]),
            "any": Any(),
            "function": function,
        }[kind]
        model = create_model("rotated_mnist", "stn-c0", width=1 / 16, localization=module)
        model.init(jax.random.key(0), DIGITS, True)
        model.init(jax.random.key(0), DIGITS)
        assert told == [True, False]

    def test_blocks_and_heads_of_ones_own(self):
        blocks = (nn.Conv(4, (3, 3)), nn.relu, nn.Dropout(0.5, deterministic=True))
        network = Network(blocks, nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(10)]))
        logits, _ = network.init_with_output(jax.random.key(0), DIGITS, True)
        assert logits.shape == (3, 10)

    # Small, and with dropout.
    blocks = (ConvBlock(4, 3, pool=True), ConvBlock(4, 3, dropout=0.5))
    head = Head(10, hidden=(8,), dropout=0.5)
    images = jax.random.normal(jax.random.key(7), (3, 12, 12, 1))

    @staticmethod
    def gradients(model, variables, images, train):
        rngs = {"dropout": jax.random.key(5)}

        def loss(params):
            logits, details = model.apply({"params": params}, images, train, True, rngs=rngs)
            return (logits**2).sum(), details

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    @pytest.mark.slow
    @pytest.mark.parametrize("depth", [None, 0, 1])
    @pytest.mark.parametrize("lift", ["remat", "jit"])
    def test_lifted_networks(self, lift, depth):
        transformer = None if depth is None else SpatialTransformer(self.localization)
        fields, images = (self.blocks, self.head, transformer, 0, depth or 0), self.images
        model = Network(*fields)
        other = getattr(nn, lift)(Network, static_argnums=(2, 3))(*fields)
        variables = model.init(jax.random.key(0), images)
        made = jax.eval_shape(lambda: other.init(jax.random.key(0), images, False, False))
        chex.assert_trees_all_equal_shapes_and_dtypes(made, variables)
        train = lift == "remat"  # within nn.jit Flax draws other keys
        found, expected = (
            self.gradients(each, variables, images, train) for each in (other, model)
        )
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(found[1])) > 0
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)

    def test_lifted_blocks_in_a_network(self):
        block = nn.remat(ConvBlock, static_argnums=2)
        blocks = (block(4, 3, pool=True), block(4, 3, dropout=0.5))
        model = Network(self.blocks, self.head)
        variables = jax.jit(model.init)(jax.random.key(0), self.images)
        found, expected = (
            self.gradients(each, variables, self.images, True)
            for each in (Network(blocks, self.head), model)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("lift", ["remat", "jit"])
    def test_lifted_transformers(self, lift):
        images = jax.random.normal(jax.random.key(0), (4, 12, 12, 2))
        localization = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(8), nn.tanh])
        lifted = getattr(nn, lift)(SpatialTransformer, static_argnums=(2, 3, 4))
        steps = nn.remat(SpatialTransformer, static_argnums=2, methods=["predict", "warp"])
        variables = SpatialTransformer(localization).init(jax.random.key(1), images)
        variables["params"]["theta"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(2), (8, 6))

        def in_steps(module, x):
            return module.warp(x, module.predict(x, True))

        def whole(module, x):
            return module(x, None, True, True)[0]

        def gradient(module, run):
            def loss(variables, x):
                return (module.apply(variables, x, method=run) ** 3).sum()

            return jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, images)

        expected = gradient(SpatialTransformer(localization), whole)
        for found in (
            gradient(lifted(localization), whole),
            gradient(steps(localization), in_steps),
        ):
            chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_networks_mapped_and_scanned(self):
        """An ensemble by nn.vmap, and a transformer that refines an image in nn.scan."""
        images, fields = (
            self.images,
            (self.blocks, self.head, SpatialTransformer(self.localization)),
        )
        model = Network(*fields)
        several = nn.vmap(
            Network,
            in_axes=None,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            axis_size=2,
        )(*fields)
        made = several.init(jax.random.key(0), images)
        for i, logits in enumerate(several.apply(made, images)):
            one = jax.tree.map(lambda x, i=i: x[i], made)
            chex.assert_trees_all_close(logits, model.apply(one, images), atol=1e-5)

        class Refine(nn.Module):
            @nn.compact
            def __call__(self, image, _):
                return SpatialTransformer(TestFlags.localization, name="transformer")(image), None

        scanned = nn.scan(
            Refine, variable_broadcast="params", split_rngs={"params": False}, length=3
        )()
        made = scanned.init(jax.random.key(0), images, None)
        made["params"]["transformer"]["theta"]["bias"] = jnp.array([0, 0.1, 0, -0.1, 0, 0])
        expected = images
        for _ in range(3):
            once = {"params": made["params"]["transformer"]}
            expected = SpatialTransformer(self.localization).apply(once, expected)
        found, _ = scanned.apply(made, images, None)
        chex.assert_trees_all_close(found, expected, atol=1e-5)
