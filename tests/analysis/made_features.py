"""Features that the tests of this folder measure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolution(kernel, strides=(1, 1), padding="VALID", dilation=(1, 1)):
    """A rectified convolution by a kernel [h, w, C_in, C_out], as a function of images."""

    @jax.jit
    def maps(images):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.nn.relu(
            jax.lax.conv_general_dilated(
                images, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
            )
        )

    return maps


# Shapes that tests share, and with them compiled programs.
SMALL, LARGE = (3, 16, 16, 1), (2, 60, 60, 1)


@functools.cache
def small_network(task="rotated_mnist", variant="cnn", side=28, channels=1):
    model = stn_jax.create_model(task, variant, width=1 / 16)
    return model, variables_of(model, (1, side, side, channels))


def variables_of(model, shape):
    """Parameters by chance, the biases too, without a program to compute them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))

    def draw(x):
        return noise(*x.shape) * (1 / np.sqrt(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.1)

    return jax.tree.map(draw, shapes)
