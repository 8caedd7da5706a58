"""Convolution and pooling: every form of them is XLA's own operation, and so are its derivatives.

Convolutions are compared in float64, where different orders of summation cost 1e-14, so that the
tolerance of 1e-12 leaves no room for a mistake. Inputs are drawn at random.
"""

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export, lax

from stn_jax.models import layers
from stn_jax.models.cpu import fourier, native, tiled

NUMBERS = ("NHWC", "HWIO", "NHWC")
FORMS = {
    "fourier": fourier.convolution,
    "fourier by 1": functools.partial(fourier.convolution, tile=(1, 1)),
    "fourier by 2x3": functools.partial(fourier.convolution, tile=(2, 3)),
    "tiled": tiled.convolution,
    "tiled by 1": functools.partial(tiled.convolution, tile=1),
    "tiled by 7": functools.partial(tiled.convolution, tile=7),
}

# Image [B, H, W, C], kernel [h, w, C, features] and a padding. Which form each takes is not the
# tests' business, but together they should take all of them and all their branches: few channels
# and many, narrow maps and wide ones, kernels of one pixel, of all of the map, oblong and even.
SHAPES = [
    ((2, 9, 9, 1), (3, 3, 1, 4)),
    ((2, 7, 8, 9), (3, 5, 9, 4)),
    ((2, 6, 17, 8), (3, 2, 8, 2)),
    ((1, 5, 12, 3), (2, 4, 3, 1)),
    ((3, 4, 5, 10), (4, 5, 10, 3)),
    ((2, 4, 6, 2), (1, 1, 2, 5)),
    ((2, 9, 12, 32), (5, 5, 32, 6)),
    ((9, 9, 8, 32), (5, 4, 32, 20)),
]
PADDINGS = [
    "VALID",
    "SAME",
    "VALID",
    ((2, 1), (0, 3)),
    "SAME",
    ((0, 1), (0, 0)),
    "VALID",
    "SAME_LOWER",
]


def name_of(value: Any) -> str:
    """A name of shapes, a padding or options for a test's."""
    if isinstance(value, tuple) and all(len(part) > 2 for part in value):
        return "-".join("x".join(map(str, shape)) for shape in value)
    return str(value).replace(" ", "")


def each(name: str, values: Any) -> Any:
    return pytest.mark.parametrize(name, values, ids=name_of)


each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

# Each function is compiled for a single run: to optimize it would take most of the time.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def used(monkeypatch):
    """The modules of the forms that are used, one for each use; without the native kernels."""
    modules = []
    monkeypatch.setattr(native, "is_usable", lambda ctx, **options: False)

    def spy(module, form):
        def call(*args, **options):
            modules.append(module)
            return form(*args, **options)

        return call

    for module in (fourier, tiled):
        monkeypatch.setattr(module, "convolution", spy(module, module.convolution))
    return modules


def draw(*shapes: tuple[int, ...], dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(map(sum, shapes)))
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def ours(x, kernel, padding="VALID", strides=(1, 1), **options):
    options = {"dimension_numbers": NUMBERS, **options}
    return layers.conv_general_dilated(x, kernel, strides, padding, **options)


def theirs(x, kernel, padding="VALID", strides=(1, 1), **options):
    options = {"dimension_numbers": NUMBERS, **options}
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def assert_same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Equal trees, to the tolerance times each leaf's largest entry."""

    def check(path, a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=str(path))

    jax.tree.map_with_path(check, found, expected)


def first_order(conv: Callable, x, kernel, *, alone: bool = True) -> dict[str, Any]:
    """Value, gradients and directional derivatives, to both arguments and to each alone."""
    shape = jax.eval_shape(conv, x, kernel).shape
    cotangent, dx, dkernel = draw(shape, x.shape, kernel.shape, dtype=x.dtype)

    @jit_once
    def compute(x, kernel):
        found = {
            "value": conv(x, kernel),
            "to both": jax.vjp(conv, x, kernel)[1](cotangent),
            "along both": jax.jvp(conv, (x, kernel), (dx, dkernel))[1],
        }
        if alone:
            of_x, of_kernel = (lambda x: conv(x, kernel)), (lambda kernel: conv(x, kernel))
            found |= {
                "to x": jax.vjp(of_x, x)[1](cotangent),
                "to kernel": jax.vjp(of_kernel, kernel)[1](cotangent),
                "along x": jax.jvp(of_x, (x,), (dx,))[1],
                "along kernel": jax.jvp(of_kernel, (kernel,), (dkernel,))[1],
            }
        return found

    return compute(x, kernel)


@functools.cache
def expected_first_order(shapes) -> dict[str, Any]:
    return first_order(theirs, *draw(*shapes), alone=False)


def second_order(conv: Callable, x, kernel) -> dict[str, Any]:
    """Products of a Hessian with a direction, reverse over reverse and forward over reverse."""
    direction = tuple(draw(x.shape, kernel.shape))

    def gradient(*args):
        return jax.grad(lambda x, kernel: (conv(x, kernel) ** 2).sum(), (0, 1))(*args)

    def along_direction(*args):
        return sum(jnp.vdot(g, d) for g, d in zip(gradient(*args), direction, strict=True))

    @jit_once
    def compute(*args):
        return {
            "reverse": jax.grad(along_direction, (0, 1))(*args),
            "forward": jax.jvp(gradient, args, direction)[1],
        }

    return compute(x, kernel)


def value_and_gradients(conv: Callable, x, kernel, cotangent) -> tuple[jax.Array, ...]:
    @jit_once
    def compute(*args):
        value, pull_back = jax.vjp(conv, *args)
        return value, *pull_back(cotangent)

    return compute(x, kernel)


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


def reduce_window(x: jax.Array, size: int = 2) -> jax.Array:
    window = (1, size, size, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


POOLS = (layers.max_pool, reduce_window)


def pool_derivatives(pool: Callable, x, dx, size: int) -> dict[str, Any]:
    def gradient(x):
        return jax.grad(lambda x: (pool(x, size).astype(jnp.float32) ** 2).sum())(x)

    @jit_once
    def compute(x, dx):
        value, along = jax.jvp(lambda x: pool(x, size), (x,), (dx,))
        return {
            "value": value,
            "along": along,
            "gradient": gradient(x),
            "reverse": jax.grad(lambda x: (gradient(x) * dx).astype(jnp.float32).sum())(x),
            "forward": jax.jvp(gradient, (x,), (dx,))[1],
        }

    return compute(x, dx)


class TestMaxPool:
    @pytest.mark.parametrize(
        ("shape", "size", "dtype"),
        [
            ((2, 6, 8, 3), 2, "float32"),
            ((2, 6, 8, 3), 2, "bfloat16"),
            ((2, 6, 8, 3), 2, "float16"),
            ((2, 7, 5, 3), 2, "float32"),  # the edge is cut
            ((1, 8, 7, 2), 3, "float32"),
            ((1, 3, 2, 2), 1, "float32"),
            ((2, 1, 6, 2), 2, "float32"),  # nothing is left
        ],
    )
    def test_values_and_derivatives(self, shape, size, dtype):
        x, dx = draw(shape, shape, dtype=jnp.dtype(dtype))
        assert_same(*(pool_derivatives(pool, x, dx, size) for pool in POOLS), 0)

    def test_equal_values_send_the_gradient_to_the_first(self):
        # Every way to fill a window with these, so every pattern of ties.
        values = [-np.inf, -1.0, -0.0, 0.0, np.inf]
        windows = np.array(list(itertools.product(values, repeat=4)), np.float32)
        x = windows.reshape(-1, 2, 2, 1)
        found, expected = (
            jit_once(jax.grad(lambda x, pool=pool: pool(x).sum()))(x).reshape(-1, 4)
            for pool in POOLS
        )
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, np.eye(4)[windows.argmax(1)])

    def test_a_nan_is_the_maximum_wherever_it_stands(self):
        windows = np.array(list(itertools.product([np.nan, -1, np.inf], repeat=4)), np.float32)
        for pool in (layers.max_pool, jax.jit(layers.max_pool)):
            found = pool(windows.reshape(-1, 2, 2, 1)).ravel()
            np.testing.assert_array_equal(found, windows.max(1))

    def test_mapping(self):
        (x,) = draw((3, 2, 5, 6, 4), dtype=np.float32)
        found, expected = (
            jit_once(jax.vmap(jax.value_and_grad(lambda x, pool=pool: (pool(x) ** 2).sum())))(x)
            for pool in POOLS
        )
        assert_same(found, expected, 1e-6)


CONVOLUTION = "stablehlo.convolution"


def lowered(function: Callable, *args: Any, platforms: tuple[str, ...]) -> str:
    return export.export(jax.jit(function), platforms=platforms)(*args).mlir_module()


class TestPlatforms:
    """A program holds the forms for the platforms that it is lowered for, not for this one."""

    def gradients(self, *args: Any) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *args: (ours(*args) ** 2).sum(), (0, 1))(*args)

    @pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
    def test_accelerators_are_given_plain_convolutions(self, platform):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        text = lowered(self.gradients, *arrays, platforms=(platform,))
        assert text.count(CONVOLUTION) == 3
        assert "dot_general" not in text

    def test_cpus_are_given_products(self, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        text = lowered(self.gradients, *draw(*SHAPES[1], dtype=np.float32), platforms=("cpu",))
        assert CONVOLUTION not in text
        assert "dot_general" in text

    def test_several_platforms_are_given_both(self):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        mapped = jax.vmap(self.gradients)
        for function, args in ((self.gradients, arrays), (mapped, [x[None] for x in arrays])):
            exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*args)
            text = exported.mlir_module()
            assert CONVOLUTION in text
            assert "dot_general" in text
            assert_same(exported.call(*args), function(*args), 1e-6)

    @pytest.mark.parametrize("precision", [None, "highest", lax.Precision.HIGH])
    def test_the_precision_is_the_one_asked_for(self, precision):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        texts = [
            lowered(
                lambda *args, conv=conv: jax.grad(
                    lambda *args: conv(*args, precision=precision).sum()
                )(*args),
                *arrays,
                platforms=("cuda",),
            )
            for conv in (ours, theirs)
        ]
        found, expected = (set(re.findall(r"#stablehlo<precision \w+>", text)) for text in texts)
        assert found == expected
        assert bool(found - {"#stablehlo<precision DEFAULT>"}) == (precision is not None)

    def test_the_precision_is_the_contexts_at_the_call(self):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        with jax.default_matmul_precision("highest"):
            traced = jax.jit(lambda *args: ours(*args)).trace(*arrays)
        assert "HIGHEST" in traced.lower(lowering_platforms=("cuda",)).as_text()

    @pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
    def test_pooling_is_elementwise(self, dtype):
        x = jnp.ones((2, 7, 5, 3), dtype)
        pooled = jax.grad(lambda x: layers.max_pool(x).astype(np.float32).sum())
        text = lowered(pooled, x, platforms=("cuda",))
        assert "reduce_window" not in text
        assert "gather" not in text
        assert "select_and_scatter" not in text


class TestForcedImplementation:
    """It is part of the key by which programs are found again."""

    def test_of_a_convolution(self, used):
        x, kernel = draw(*SHAPES[1], dtype=np.float32)
        compiled = jax.jit(lambda *args: ours(*args))

        def text() -> str:
            return compiled.lower(x, kernel).as_text()

        assert CONVOLUTION not in text()
        value = compiled(x, kernel)
        with layers.force_implementation("lax"):
            assert CONVOLUTION in text()
            used.clear()
            assert_same(compiled(x, kernel), value, 1e-6)
            assert not used
        assert CONVOLUTION not in text()
        with layers.force_implementation("cpu"):
            accelerated = compiled.trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
        assert CONVOLUTION not in accelerated

    def test_of_a_convolution_without_jit(self, used):
        x, kernel = draw((2, 7, 8, 5), (3, 5, 5, 4), dtype=np.float32)
        value = ours(x, kernel)
        assert used
        used.clear()
        with layers.force_implementation("lax"):
            assert_same(ours(x, kernel), value, 1e-6)
        assert not used

    def test_of_pooling(self):
        (x,) = draw((2, 7, 5, 3), dtype=np.float32)
        compiled = jax.jit(lambda x: layers.max_pool(x))
        for name, there in ((None, False), ("lax", True), (None, False)):
            with layers.force_implementation(name):
                assert ("reduce_window" in compiled.lower(x).as_text()) == there

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_pooling_has_derivatives(self, dtype):
        x, dx = draw((2, 7, 5, 3), (2, 7, 5, 3), dtype=jnp.dtype(dtype))
        with layers.force_implementation("lax"):
            found = pool_derivatives(layers.max_pool, x, dx, 2)
        assert_same(found, pool_derivatives(reduce_window, x, dx, 2), 0)

    def test_another_name_is_rejected(self):
        with (
            layers.force_implementation("gpu"),
            pytest.raises(ValueError, match="force_implementation is 'gpu'; expected 'lax'"),
        ):
            ours(*draw(*SHAPES[1], dtype=np.float32))
