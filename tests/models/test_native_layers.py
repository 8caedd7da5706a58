"""The native convolution and pooling, against JAX's own in float64 and in float32."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from stn_jax.models import layers
from stn_jax.warp import native

pytestmark = pytest.mark.skipif(
    not native.available(), reason="the native kernels are not available"
)

costly = settings(max_examples=settings().max_examples // 3)  # each is compiled
NUMBERS = ("NHWC", "HWIO", "NHWC")


def ours(x, kernel, padding="VALID"):
    return layers.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=NUMBERS)


def theirs(x, kernel, padding="VALID"):
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=NUMBERS)


def gradients(conv, x, kernel, cotangent):
    """Value and both gradients, compiled without spending time on it."""

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def compute(x, kernel, cotangent):
        value, pull_back = jax.vjp(conv, x, kernel)
        return value, *pull_back(cotangent)

    return [np.asarray(array) for array in compute(x, kernel, cotangent)]


def draw(conv, shape, kernel_shape, seed=0):
    rng = np.random.default_rng(seed)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in (shape, kernel_shape))
    out = jax.eval_shape(conv, x, kernel).shape
    return x, kernel, rng.normal(size=out).astype(np.float32)


def check(shape, kernel_shape, padding="VALID", seed=0):
    """Ours in float32 against theirs in float64, to 1e-6 of the largest sum of absolute terms."""
    arrays = draw(functools.partial(theirs, padding=padding), shape, kernel_shape, seed)
    with layers.force_implementation("native"):
        found = gradients(functools.partial(ours, padding=padding), *arrays)
    with jax.enable_x64(True):
        exact = [array.astype(np.float64) for array in arrays]
        exactly = functools.partial(theirs, padding=padding)
        expected = gradients(exactly, *exact)
        # A rounding error is relative to the terms, which may nearly cancel.
        terms = gradients(exactly, *map(np.abs, exact))
    for a, b, size in zip(found, expected, terms, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * size.max(initial=0))


@given(st.data())
@costly
def test_values_and_gradients(data):
    def whole(low, high):
        return data.draw(st.integers(low, high))

    kernel = (whole(1, 5), whole(1, 5))
    padding = [(whole(0, 2), whole(0, 2)) for _ in kernel]
    channels = data.draw(st.sampled_from([0, 1, 1, 2, 3, 5, 8, 9, 20, 33]))
    features = data.draw(st.sampled_from([0, 1, 2, 7, 8, 9, 16, 20, 24, 31, 40, 64]))
    sides = [whole(k, k + 9) for k in kernel]
    check((whole(0, 5), *sides, channels), (*kernel, channels, features), padding, whole(0, 99))


@pytest.mark.thin("(37, 10, 10, 64)-(7, 7, 64, 16)", "(3000, 3, 3, 2)-(2, 2, 2, 5)")
@pytest.mark.parametrize(
    ("shape", "kernel_shape"),
    [
        ((16, 28, 28, 1), (9, 9, 1, 64)),
        ((37, 10, 10, 64), (7, 7, 64, 16)),  # several images a part, the last one fewer
        ((2, 40, 30, 20), (5, 5, 20, 20)),
        ((1, 90, 33, 3), (5, 5, 3, 48)),  # an image in strips
        ((3, 9, 8, 300), (3, 3, 300, 200)),  # several blocks of taps in a kernel's row
        ((3000, 3, 3, 2), (2, 2, 2, 5)),  # a kernel's gradient in shares
    ],
    ids=str,
)
def test_larger_ones(shape, kernel_shape):
    check(shape, kernel_shape)


def by_taps(x, kernel, cotangent):
    """Value and both gradients, tap by tap: what a tap does not reach, it does not touch."""
    value, to_x, to_kernel = np.zeros_like(cotangent), np.zeros_like(x), np.zeros_like(kernel)
    height, width = cotangent.shape[1:3]
    for i, j in np.ndindex(*kernel.shape[:2]):
        window = np.s_[:, i : i + height, j : j + width]
        value += x[window] @ kernel[i, j]
        to_x[window] += cotangent @ kernel[i, j].T
        to_kernel[i, j] = np.einsum("bhwc,bhwo->co", x[window], cotangent)
    return value, to_x, to_kernel


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("features", [4, 20])
def test_a_value_that_is_not_finite_goes_as_far_as_its_taps(features):
    for value in (np.nan, np.inf):
        for argument in range(3):
            arrays = draw(ours, (3, 7, 8, 5), (3, 2, 5, features))
            arrays[argument].flat[arrays[argument].size // 2] = value
            with layers.force_implementation("native"):
                found = gradients(ours, *arrays)
            for a, b in zip(found, by_taps(*arrays), strict=True):
                np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
                np.testing.assert_array_equal(np.isinf(a), np.isinf(b))


MAPPED = [  # axes of input and kernel
    ((0, None),),
    ((None, 0),),
    ((0, 0),),
    ((2, None), (None, 0)),
    ((None, 0), (1, None)),
    ((0, 0), (0, None)),
    ((0, None), (None, 4), (1, 1)),
]


@pytest.mark.parametrize("axes", MAPPED, ids=str)
def test_mapped(axes):
    """Over several axes, outermost first; gradients to what has an axis and to what has not."""
    rng = np.random.default_rng(0)
    shapes = [[2, 6, 5, 3], [2, 3, 3, 9]]
    for number, pair in enumerate(reversed(axes)):
        for shape, axis in zip(shapes, pair, strict=True):
            if axis is not None:
                shape.insert(axis, number + 2)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def run(conv):
        def total(x, kernel):
            mapped = functools.reduce(lambda fn, pair: jax.vmap(fn, pair), reversed(axes), conv)
            return (mapped(x, kernel) ** 2).sum()

        def each(x, kernel):
            fn = jax.grad(lambda x, kernel: (conv(x, kernel) ** 3).sum(), (0, 1))
            mapped = functools.reduce(lambda fn, pair: jax.vmap(fn, pair), reversed(axes), fn)
            return mapped(x, kernel)

        return jax.jit(lambda *args: (jax.value_and_grad(total, (0, 1))(*args), each(*args)))(
            *arrays
        )

    with layers.force_implementation("native"):
        found = run(ours)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()),
        found,
        run(theirs),
    )


def test_half_precision_is_rounded_once():
    x, kernel, cotangent = draw(ours, (2, 9, 9, 8), (3, 3, 8, 12))
    half = [array.astype(jnp.bfloat16) for array in (x, kernel, cotangent)]
    with layers.force_implementation("native"):
        found = gradients(ours, *half)
    expected = gradients(theirs, *(array.astype(np.float32) for array in half))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, rtol=2**-8, atol=1e-5 * np.abs(b).max())


def text(conv, *args, **options):
    return (
        jax.jit(jax.grad(lambda *args: conv(*args).sum(), (0, 1))).lower(*args, **options).as_text()
    )


def test_what_calls_them():
    args = draw(ours, (2, 9, 9, 8), (3, 3, 8, 12))[:2]
    assert native.CONVOLVE in text(ours, *args)
    for name in ("cpu", "lax"):
        with layers.force_implementation(name):
            assert native.CONVOLVE not in text(ours, *args)
    with jax.enable_x64(True):
        assert native.CONVOLVE not in text(ours, *(array.astype(np.float64) for array in args))
    exported = jax.export.export(jax.jit(ours), platforms=("cpu",))(*args)
    assert native.CONVOLVE not in exported.mlir_module()
    assert native.POOL in jax.jit(layers.max_pool).lower(args[0]).as_text()
    pool = jax.export.export(jax.jit(layers.max_pool), platforms=("cpu",))(args[0])
    assert native.POOL not in pool.mlir_module()


@given(st.data())
@costly
def test_pooling(data):
    """Bit for bit what elementwise operations give: values, gradients, ties, NaN, edges."""
    size = data.draw(st.integers(1, 3))
    shape = [data.draw(st.integers(0, 3))]
    shape += [data.draw(st.integers(size, 9)) for _ in range(2)]
    shape += [data.draw(st.sampled_from([0, 1, 3, 8, 13, 20]))]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = np.array([-np.inf, -1, -0.0, 0, 1, 2, np.inf, np.nan], np.float32)
    x = rng.choice(values, shape)
    cotangent = rng.normal(size=(shape[0], shape[1] // size, shape[2] // size, shape[3]))

    def run(name):
        with layers.force_implementation(name):
            value, pull_back = jax.vjp(lambda x: layers.max_pool(x, size), jnp.asarray(x))
            return value, *pull_back(jnp.asarray(cotangent, jnp.float32))

    for a, b in zip(run("native"), run("cpu"), strict=True):
        np.testing.assert_array_equal(a, b)


BITS = """
import hashlib, jax, numpy as np
from stn_jax.models import layers
from stn_jax.warp import native
rng = np.random.default_rng(0)
total = hashlib.sha256()
for shape, kernel in (((70, 10, 10, 16), (7, 7, 16, 40)), ((40, 20, 20, 1), (5, 5, 1, 20))):
    x, k = (rng.normal(size=s).astype(np.float32) for s in (shape, kernel))
    def loss(x, k):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = layers.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)
        return (layers.max_pool(y) ** 2).sum()
    with layers.force_implementation("native"):
        for array in jax.jit(jax.grad(loss, (0, 1)))(x, k):
            total.update(np.asarray(array).tobytes())
print(total.hexdigest(), native.status().split(", ")[-1], sep=", ")
"""


def run(code: str, **env: str) -> str:
    path = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_the_same_bits_for_any_number_of_threads():
    found = {}
    for threads in (1, 2, 3):
        bits, used = run(BITS, NPROC=str(threads)).strip().split(", ")
        assert used == f"{threads} threads"
        found[threads] = bits
    assert len(set(found.values())) == 1


@pytest.mark.slow
def test_without_the_library():
    code = "import jax; from stn_jax.models import layers\n"
    code += "x, k = jax.numpy.ones((2, 6, 6, 3)), jax.numpy.ones((3, 3, 3, 4))\n"
    code += "numbers = ('NHWC', 'HWIO', 'NHWC')\n"
    call = "layers.conv_general_dilated(x, k, (1, 1), 'VALID', dimension_numbers=numbers)"
    assert run(f"{code}print({call}.min())", STN_JAX_NATIVE="0").strip() == "27.0"
    forced = f"{code}with layers.force_implementation('native'): {call}"
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(forced, STN_JAX_NATIVE="0")
    assert (
        "the native kernels are not available: plain JAX: STN_JAX_NATIVE is 0" in error.value.stderr
    )
