"""Images whose axes are probably in another order than the one that is expected."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import stn_jax
from stn_jax.warp import affine, axes


def warned(call) -> list[str]:
    axes._warn.cache_clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
        call()  # once for each shape
    return [str(each.message) for each in found]


@pytest.mark.parametrize(
    ("shape", "theta", "message"),
    [
        ((2, 3, 20, 28), (), "has 3 rows and 28 channels, since the last axis holds channels"),
        ((2, 1, 20, 28), (2,), "if the second does, use jnp.moveaxis(image, 1, -1)"),
        ((6, 20, 28), (6,), "a single one with 28 channels, warped 6 times"),
        ((6, 20, 28), (), None),
        ((6, 20, 3), (6,), None),
        ((2, 20, 28, 3), (2,), None),
        ((2, 20, 28, 64), (2,), None),
        ((2, 4, 4, 192), (), None),  # deep maps of small images
        ((2, 4, 6, 192), (), None),
        ((2, 3, 5, 20, 28, 1), (2, 3, 5), None),
    ],
)
def test_images_that_are_hardly_meant(shape, theta, message):
    matrices = jnp.broadcast_to(affine.identity(), (*theta, 2, 3))
    found = warned(lambda: jax.eval_shape(stn_jax.affine_transform, jnp.ones(shape), matrices))
    assert len(found) == (message is not None)
    for text in found:
        assert message in text


def test_volumes_and_grids():
    volume = jnp.ones((2, 3, 8, 9, 10))
    found = warned(lambda: stn_jax.affine_transform(volume, affine.identity(3)))
    assert len(found) == 1
    assert "has 3 rows and 10 channels" in found[0]
    grid = stn_jax.affine_grid(jnp.broadcast_to(affine.identity(), (6, 2, 3)), (5, 5))
    found = warned(lambda: stn_jax.grid_sample(jnp.ones((6, 20, 28)), grid))
    assert len(found) == 1
    assert "image[..., None]" in found[0]


def test_networks_and_transformers_warn_too():
    model = stn_jax.create_model("plain", "cnn", blocks=[(3, 4, 0)])
    images = jnp.ones((2, 3, 20, 28))
    assert len(warned(lambda: jax.eval_shape(model.init, jax.random.key(0), images))) == 1
    transformer = stn_jax.SpatialTransformer(lambda x: x.mean((1, 2)))
    assert len(warned(lambda: jax.eval_shape(transformer.init, jax.random.key(0), images))) == 1


def test_sizes_that_are_not_known_are_not_looked_at():
    (b,) = jax.export.symbolic_shape("b")
    image = jax.ShapeDtypeStruct((b, 3, 20, 28), jnp.float32)
    warp = jax.jit(lambda image: stn_jax.affine_transform(image, affine.identity()))
    assert warned(lambda: jax.export.export(warp)(image)) == []
