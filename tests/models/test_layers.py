"""Convolution and pooling: every form of them is XLA's own operation, and so are its derivatives.

Convolutions are compared in float64, where different orders of summation cost 1e-14, so that the
tolerance of 1e-12 leaves no room for a mistake. Inputs are drawn at random.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import (
    PADDINGS,
    SHAPES,
    assert_same,
    draw,
    each,
    first_order,
    jit_once,
    name_of,
    ours,
    second_order,
    theirs,
    value_and_gradients,
)
from flax import linen as nn
from jax import lax

from stn_jax.models import layers
from stn_jax.models.cpu import fourier, tiled

FORMS = {
    "fourier": fourier.convolution,
    "fourier by 1": functools.partial(fourier.convolution, tile=(1, 1)),
    "fourier by 2x3": functools.partial(fourier.convolution, tile=(2, 3)),
    "tiled": tiled.convolution,
    "tiled by 1": functools.partial(tiled.convolution, tile=1),
    "tiled by 7": functools.partial(tiled.convolution, tile=7),
}

each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@functools.cache
def expected_first_order(shapes) -> dict[str, Any]:
    return first_order(theirs, *draw(*shapes), alone=False)


class TestForms:
    """Each way of computing a 'VALID' convolution, whatever the shapes it is chosen for."""

    @pytest.mark.thin
    @each("shapes", SHAPES)
    @each_form
    def test_values_and_derivatives(self, form, shapes, x64):
        x, kernel = draw(*shapes)
        assert_same(first_order(form, x, kernel, alone=False), expected_first_order(shapes))

    @each_form
    def test_float32(self, form):
        x, kernel = draw(*SHAPES[1], dtype=np.float32)
        assert_same(jit_once(form)(x, kernel), jit_once(theirs)(x, kernel), 1e-6)

    def test_all_of_them_are_in_use(self, used):
        for x, kernel in SHAPES:
            arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (x, kernel)]
            jax.jit(lambda *args: ours(*args)).lower(*arrays)
        assert set(used) == {fourier, tiled}


class TestConvolution:
    @pytest.mark.parametrize(
        ("shapes", "padding"), [*zip(SHAPES, PADDINGS, strict=True)], ids=name_of
    )
    def test_values_and_derivatives(self, shapes, padding, x64):
        x, kernel = draw(*shapes)
        found, expected = (
            first_order(functools.partial(conv, padding=padding), x, kernel)
            for conv in (ours, theirs)
        )
        assert_same(found, expected)

    @pytest.mark.thin("2x9x9x1-3x3x1x4")
    @each("shapes", [SHAPES[0], SHAPES[2], SHAPES[-1]])
    def test_second_derivatives(self, shapes, x64):
        x, kernel = draw(*shapes)
        assert_same(second_order(ours, x, kernel), second_order(theirs, x, kernel))

    @each("shapes", [SHAPES[0], SHAPES[-1]])
    def test_mapping_over_kernels(self, shapes, x64):
        x, kernel = draw(shapes[0], (3, *shapes[1]))

        def run(conv):
            def loss(kernel):
                return (conv(x, kernel, "SAME") ** 2).sum()

            return jit_once(jax.vmap(jax.value_and_grad(loss)))(kernel)

        assert_same(run(ours), run(theirs))

    @each("shapes", SHAPES[:2])
    def test_mapping_over_images_and_kernels(self, shapes, x64):
        x, kernel = draw((3, *shapes[0]), (3, *shapes[1]))
        assert_same(*(jit_once(jax.vmap(conv))(x, kernel) for conv in (ours, theirs)))

    @each("shapes", SHAPES[:2])
    def test_without_jit_in_float32(self, shapes):
        x, kernel = draw(*shapes, dtype=np.float32)
        assert_same(ours(x, kernel), theirs(x, kernel), 1e-6)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    @each("shapes", SHAPES[:2])
    def test_half_precision(self, shapes, dtype):
        with jax.numpy_dtype_promotion("strict"):
            shape = jax.eval_shape(ours, *draw(*shapes, dtype=np.float32)).shape
            args = draw(*shapes, shape, dtype=jnp.dtype(dtype))
            found = value_and_gradients(ours, *args)
            expected = value_and_gradients(theirs, *(array.astype(np.float32) for array in args))
        assert {array.dtype for array in found} == {jnp.dtype(dtype)}
        # A sum of a product for each kernel row, every one of them rounded.
        tolerance = shapes[1][0] * float(jnp.finfo(dtype).eps)
        assert_same([array.astype(np.float32) for array in found], [*expected], tolerance)

    @pytest.mark.thin
    @pytest.mark.parametrize("argument", [0, 1], ids=["x", "kernel"])
    @each("shapes", SHAPES)
    def test_constants_need_no_derivative(self, shapes, argument):
        arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]

        def operations(argument):
            loss = jax.grad(lambda *args: ours(*args).sum(), argument)
            with layers.force_implementation("cpu"):  # what a native call costs, XLA cannot tell
                return jax.jit(loss).lower(*arrays).cost_analysis()["flops"]

        assert operations(argument) < 0.9 * operations((0, 1))

    @each(
        "options",
        [
            {"strides": (2, 1)},
            {"strides": (3, 3), "padding": "SAME"},
            {"rhs_dilation": (1, 2)},
            {"lhs_dilation": (2, 1), "padding": ((1, 1), (2, 0))},
            {"feature_group_count": 2},
            {"batch_group_count": 2},
            {"precision": lax.Precision.HIGHEST},
            {"precision": ("highest", "highest")},
        ],
    )
    def test_other_convolutions(self, options, x64):
        channels = 4 if "feature_group_count" in options else 8
        x, kernel = draw((2, 9, 10, 8), (4, 3, channels, 4))
        mine, other = (functools.partial(conv, **options) for conv in (ours, theirs))
        (cotangent,) = draw(jax.eval_shape(other, x, kernel).shape)
        found, expected = (
            value_and_gradients(conv, x, kernel, cotangent) for conv in (mine, other)
        )
        assert_same(found, expected)

    def test_a_type_to_sum_in(self):
        x, kernel = draw(*SHAPES[1], dtype=np.float16)
        found, expected = (
            conv(x, kernel, preferred_element_type=np.float32) for conv in (ours, theirs)
        )
        assert_same(found, expected, 1e-6)

    def test_another_layout(self):
        x, kernel = draw((2, 8, 9, 10), (4, 8, 3, 3), dtype=np.float32)
        found = layers.conv_general_dilated(x, kernel, (1, 1), "SAME")
        assert_same(found, lax.conv_general_dilated(x, kernel, (1, 1), "SAME"), 1e-6)

    @pytest.mark.parametrize(
        ("image", "padding"),
        [
            pytest.param((0, 7, 7, 9), "VALID", id="no images"),
            pytest.param((2, 2, 7, 9), "VALID", id="lower than the kernel"),
            pytest.param((2, 7, 2, 9), "VALID", id="narrower than the kernel"),
            pytest.param((2, 7, 7, 9), ((-1, 0), (1, -2)), id="negative padding"),
        ],
    )
    def test_sizes_that_leave_less_or_nothing(self, image, padding):
        x, kernel = draw(image, (3, 3, 9, 2), dtype=np.float32)
        mine, other = (functools.partial(conv, padding=padding) for conv in (ours, theirs))
        (cotangent,) = draw(jax.eval_shape(other, x, kernel).shape, dtype=np.float32)
        found, expected = (
            value_and_gradients(conv, x, kernel, cotangent) for conv in (mine, other)
        )
        assert_same(found, expected, 1e-6)

    @each("padding", ["SAME", "CIRCULAR", ((1, 0), (0, 2))])
    def test_in_a_flax_layer(self, padding, used):
        (x,) = draw((2, 9, 10, 3), dtype=np.float32)

        def run(**options):
            layer = nn.Conv(4, (3, 3), padding=padding, **options)
            return jit_once(layer.init_with_output)(jax.random.key(0), x)

        expected = run()
        assert not used
        assert_same(run(conv_general_dilated=layers.conv_general_dilated), expected, 1e-6)
        assert used
