"""The transformer as a module of its own."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from stn_jax import SpatialTransformer
from stn_jax.warp import affine


class TestSpatialTransformer:
    localization = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(8), nn.relu])

    def test_starts_at_the_identity_and_can_learn_from_there(self):
        module = SpatialTransformer(self.localization)
        images = jax.random.normal(jax.random.key(0), (4, 12, 12, 2))
        warped, variables = module.init_with_output(jax.random.key(1), images)
        chex.assert_trees_all_close(warped, images, atol=1e-5)

        def loss(params):
            return (module.apply({"params": params}, images) * images[:, ::-1]).sum()

        assert float(jnp.abs(jax.grad(loss)(variables["params"])["theta"]["kernel"]).max()) > 0.1

    @pytest.mark.parametrize(("options", "side"), [({"shape": (5, 7)}, (5, 7)), ({}, (12, 12))])
    def test_output_shape(self, options, side):
        module = SpatialTransformer(self.localization, **options)
        warped, _ = module.init_with_output(jax.random.key(1), jnp.ones((4, 12, 12, 2)))
        chex.assert_shape(warped, (4, *side, 2))

    def test_a_crop_starts_at_the_center_and_theta_includes_it(self):
        module = SpatialTransformer(self.localization, downsample=2, crop_fraction=0.5)
        images = jax.random.normal(jax.random.key(0), (4, 12, 16, 2))
        (warped, theta), variables = module.init_with_output(
            jax.random.key(1), images, return_theta=True
        )
        chex.assert_trees_all_close(warped, images[:, 3:9, 4:12], atol=1e-5)
        chex.assert_trees_all_close(theta, jnp.tile(affine.scaling(0.5), (4, 1, 1)))
        # What the transformer says is of the whole image: half a side to the right, say.
        params = jax.tree.map(lambda x: x, variables["params"])
        params["theta"]["bias"] = params["theta"]["bias"].at[2].set(0.5)
        warped = module.apply({"params": params}, images)
        chex.assert_trees_all_close(warped, images[:, 3:9, 8:16], atol=1e-5)

    @pytest.mark.parametrize("iterations", [1, 2])
    def test_the_crop_applies_to_the_last_iteration_only(self, iterations):
        options = {"iterations": iterations, "shape": (12, 12)}
        whole = SpatialTransformer(self.localization, **options)
        part = SpatialTransformer(self.localization, crop_fraction=0.5, **options)
        images = jax.random.normal(jax.random.key(0), (4, 12, 12, 2))
        params = whole.init(jax.random.key(1), images)["params"]
        params["theta"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(2), (8, 6))
        _, theta = whole.apply({"params": params}, images, return_theta=True)
        _, cropped = part.apply({"params": params}, images, return_theta=True)
        chex.assert_trees_all_close(cropped, affine.compose(theta, affine.scaling(0.5)))

    def test_volumes(self):
        module = SpatialTransformer(self.localization, downsample=2)
        volumes = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 1))
        (warped, theta), _ = module.init_with_output(jax.random.key(1), volumes, return_theta=True)
        chex.assert_shape(warped, (2, 2, 3, 4, 1))
        chex.assert_shape(theta, (2, 3, 4))

    def test_predict_and_warp_are_the_call_in_two_steps(self):
        module = SpatialTransformer(
            self.localization, downsample=2, crop_fraction=0.5, align_corners=True
        )
        images = jax.random.normal(jax.random.key(0), (4, 12, 16, 2))
        variables = module.init(jax.random.key(1), images[..., :1])
        variables["params"]["theta"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(2), (8, 6))
        warped, theta = module.apply(
            variables, images, lambda x: x[..., :1], True
        )  # looks at one of the two channels
        found = module.apply(variables, images[..., :1], method="predict")
        chex.assert_trees_all_equal(found, theta)
        chex.assert_trees_all_equal(module.apply(variables, images, found, method="warp"), warped)
        made = module.init(jax.random.key(1), images[..., :1], method="predict")
        chex.assert_trees_all_equal_shapes(made, variables)

    def test_predict_and_warp_of_volumes(self):
        module = SpatialTransformer(self.localization)
        volumes = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 1))
        theta, _ = module.init_with_output(
            jax.random.key(1), volumes, num_spatial_dims=3, method="predict"
        )
        warped = module.apply({}, volumes, theta, method="warp")
        chex.assert_trees_all_close(warped, volumes, atol=1e-5)

    def test_one_image_is_aligned_as_in_a_batch(self):
        localization = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(8), nn.tanh])
        module = SpatialTransformer(localization, iterations=2, downsample=2)
        image = jax.random.normal(jax.random.key(0), (12, 10, 2))
        variables = module.init(jax.random.key(1), image)
        variables["params"]["theta"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(2), (8, 6))
        found = module.apply(variables, image, return_theta=True)
        batch = module.apply(variables, image[None], return_theta=True)
        chex.assert_trees_all_close(found, jax.tree.map(lambda x: x[0], batch), atol=1e-6)
        chex.assert_shape(found, [(6, 5, 2), (2, 3)])

    def test_the_last_layer_has_the_type_asked_for(self):
        module = SpatialTransformer(self.localization, param_dtype=jnp.bfloat16)
        images = jnp.ones((1, 12, 12, 2), jnp.bfloat16)
        (_, theta), variables = module.init_with_output(
            jax.random.key(1), images, return_theta=True
        )
        assert theta.dtype == jnp.float32
        assert variables["params"]["theta"]["kernel"].dtype == jnp.bfloat16

    def test_predict_supports_a_single_iteration(self):
        with pytest.raises(ValueError, match="iterations is 2; predict expects 1"):
            SpatialTransformer(self.localization, iterations=2).init(
                jax.random.key(1), jnp.ones((1, 12, 12, 2)), method="predict"
            )

    def test_bad_input_is_rejected(self):
        for fraction in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(
                ValueError, match=f"crop_fraction is {fraction}; expected a fraction of"
            ):
                SpatialTransformer(self.localization, crop_fraction=fraction).init(
                    jax.random.key(1), jnp.ones((1, 12, 12, 2))
                )
        with pytest.raises(ValueError, match=r"shape \(12, 12\); expected \[B, H, W, C\]"):
            SpatialTransformer(self.localization).init(jax.random.key(1), jnp.ones((12, 12)))
        with pytest.raises(ValueError, match="iterations is 0; expected 1 or more"):
            SpatialTransformer(self.localization, iterations=0).init(
                jax.random.key(1), jnp.ones((1, 12, 12, 2))
            )

    @pytest.mark.parametrize(
        ("options", "shape", "message"),
        [
            (
                {"downsample": 8},
                (1, 6, 6, 1),
                "downsample is 8, too much for an image of 6x6",
            ),
            ({"downsample": 3}, (1, 6, 2, 1), "expected at most 2"),
            ({"shape": (0, 5)}, (1, 6, 6, 1), r"shape is \(0, 5\); expected 2 sides of 1 or more"),
            ({"shape": (5,)}, (1, 6, 6, 1), r"shape is \(5,\); expected 2 sides"),
            ({"shape": (5, 5)}, (1, 6, 6, 6, 1), r"shape is \(5, 5\); expected 3 sides"),
            ({}, (1, 0, 6, 1), r"image has shape \(1, 0, 6, 1\); expected sides of 1 or more"),
        ],
    )
    def test_an_empty_output_is_rejected(self, options, shape, message):
        module = SpatialTransformer(self.localization, **options)
        with pytest.raises(ValueError, match=message):
            module.init(jax.random.key(1), jnp.ones(shape))
        with pytest.raises(ValueError, match=message):
            module.apply({}, jnp.ones(shape), jnp.ones((1, 2, 3)), method="warp")

    @pytest.mark.parametrize(
        "localization",
        [lambda x: x.mean(-1), lambda x: x[:, 0, 0, :0], lambda x: x.mean((1, 2, 3))],
    )
    def test_a_localization_output_that_is_not_a_vector_is_rejected(self, localization):
        with pytest.raises(
            ValueError, match=r"the localization network returned .*expected a vector"
        ):
            SpatialTransformer(localization).init(jax.random.key(1), jnp.ones((3, 12, 12, 2)))
