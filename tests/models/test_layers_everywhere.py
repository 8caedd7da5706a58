"""Convolution and pooling under everything that JAX offers, against JAX's own convolution."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import layers_on_devices
import numpy as np
import pytest
from jax import export, lax
from layers_on_devices import IMAGES, KERNEL

from stn_jax.models import ConvBlock, Head, Network, create_model, layers

NUMBERS = ("NHWC", "HWIO", "NHWC")


def ours(x, kernel):
    return layers.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)


def theirs(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)


def loss_of(conv: Callable) -> Callable:
    return lambda x, kernel: (layers.max_pool(jnp.tanh(conv(x, kernel))) ** 2).sum()


def gradients_of(conv: Callable) -> Callable:
    return jax.value_and_grad(loss_of(conv), (0, 1))


def assert_close(found, expected, tolerance: float = 1e-4) -> None:
    def check(a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(check, found, expected)


def both(run: Callable) -> None:
    """Compares what a function of the convolution gives with ours and with JAX's own."""
    assert_close(run(ours), run(theirs))


STRICT = {
    "disable_jit": lambda: jax.disable_jit(),
    "debug_nans": lambda: jax.debug_nans(True),
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "leaks": lambda: jax.checking_leaks(),
    "x64": lambda: jax.enable_x64(True),
    "transfers": lambda: jax.transfer_guard("disallow"),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("mode", STRICT)
def test_in_a_strict_mode(mode, compiled):
    x, kernel = jnp.asarray(IMAGES), jnp.asarray(KERNEL)
    if mode == "transfers" and not compiled:
        functions = (ours, lambda x, kernel: layers.max_pool(x))  # tanh's constants are JAX's
    else:
        functions = (jax.jit(gradients_of(ours)) if compiled else gradients_of(ours),)
    for function in functions:
        expected = function(x, kernel)
        with STRICT[mode]():
            assert_close(function(x, kernel), expected)


@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize(("value", "debug"), [("nan", jax.debug_nans), ("inf", jax.debug_infs)])
def test_a_nan_is_found(value, debug, compiled):
    x = jnp.asarray(IMAGES).at[0, 3, 3, 0].set(float(value))
    function = jax.jit(theirs) if compiled else theirs
    with debug(True), pytest.raises(FloatingPointError):
        function(x, KERNEL)
    function = jax.jit(ours) if compiled else ours
    with debug(True), pytest.raises(FloatingPointError):
        function(x, KERNEL)


def test_64_bit_types_stay_where_they_are_lowered_without():
    arrays = [array.astype(np.float64) for array in (IMAGES, KERNEL)]
    with jax.enable_x64(True):
        traced = jax.jit(jax.grad(lambda *args: ours(*args).sum(), (0, 1))).trace(*arrays)
        expected = jax.grad(lambda *args: theirs(*args).sum(), (0, 1))(*arrays)
    program = traced.lower().compile()
    with jax.enable_x64(True):
        assert_close(program(*arrays), expected, 1e-12)


@pytest.mark.thin
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 3)], ids=str)
@pytest.mark.parametrize("size", [0, 1, 3])
def test_mapped(size, axes):
    """Over an axis of no, one or several entries of each argument."""
    arrays = [
        array if axis is None else np.stack([array * (i + 1) / 2 for i in range(3)], axis)
        for array, axis in zip((IMAGES, KERNEL), axes, strict=True)
    ]
    arrays = [
        array if axis is None else array.take(range(size), axis)
        for array, axis in zip(arrays, axes, strict=True)
    ]
    both(lambda conv: jax.jit(jax.vmap(gradients_of(conv), axes, (0, (1, 2))))(*arrays))


def test_mapped_twice():
    kernels = np.stack([KERNEL, -KERNEL])
    images = np.stack([IMAGES, 2 * IMAGES, 3 * IMAGES])
    outer = lambda conv: jax.vmap(jax.vmap(gradients_of(conv), (0, None)), (None, 0))  # noqa: E731
    both(lambda conv: jax.jit(outer(conv))(images, kernels))


def test_gradients_that_sum_over_a_mapped_axis():
    several = np.stack([IMAGES, 2 * IMAGES])

    def total(conv, kernel):
        return (jax.vmap(conv, (0, None))(several, kernel) ** 3).sum()

    direction = np.flip(KERNEL, 0)
    for order in (
        lambda f: jax.grad(f)(KERNEL),
        lambda f: jax.jvp(jax.grad(f), (KERNEL,), (direction,))[1],
        lambda f: jax.vmap(lambda scale: jax.grad(f)(scale * KERNEL))(jnp.array([1.0, 2.0])),
    ):
        both(
            lambda conv, order=order: jax.tree.map(
                lambda g: g / 1000, order(lambda k: total(conv, k))
            )
        )


def test_hessians():
    """Forward over reverse (mapped tangents of one argument), and reverse over forward."""
    x, kernel = IMAGES[:1, :4, :4, :2], KERNEL[:2, :2, :2, :2]
    for hessian in (jax.hessian, lambda f, argnums: jax.jacrev(jax.jacfwd(f, argnums), argnums)):
        both(
            lambda conv, hessian=hessian: jax.jit(hessian(loss_of(conv), argnums=(0, 1)))(x, kernel)
        )


def test_in_loops_and_rematerialised():
    kernels = np.stack([KERNEL, 2 * KERNEL])

    def scanned(conv, kernels):
        def body(total, kernel):
            return total + jax.remat(loss_of(conv))(IMAGES, kernel), None

        return lax.scan(body, 0.0, kernels)[0]

    both(lambda conv: jax.jit(jax.value_and_grad(lambda k: scanned(conv, k)))(kernels))
    both(lambda conv: lax.map(lambda kernel: gradients_of(conv)(IMAGES, kernel), kernels))
    both(lambda conv: jax.linearize(conv, IMAGES, KERNEL)[1](2 * IMAGES, KERNEL))
    both(lambda conv: jax.jit(gradients_of(conv)).lower(IMAGES, KERNEL).compile()(IMAGES, KERNEL))


PLATFORMS = [("cpu",), ("cuda",), ("tpu",), ("cpu", "cuda", "tpu")]


@pytest.mark.thin("('cpu', 'cuda', 'tpu')")
@pytest.mark.parametrize("platforms", PLATFORMS, ids=str)
def test_exported_with_symbolic_sizes(platforms):
    """A batch of any size, and images of any size; gradients, too."""
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b,h,w,5"), np.float32)
    batch = jax.ShapeDtypeStruct(export.symbolic_shape("b,9,8,5"), np.float32)
    for function, shape in ((gradients_of(ours), batch), (ours, x)):
        exported = export.export(jax.jit(function), platforms=platforms)(shape, KERNEL)
        if "cpu" in platforms:
            assert_close(exported.call(IMAGES, KERNEL), jax.jit(function)(IMAGES, KERNEL))


SMALL = Network((ConvBlock(4, 5, pool=True), ConvBlock(6, 3, padding="SAME")), Head(10, 5, (8,)))


@pytest.mark.slow
@pytest.mark.parametrize("platforms", PLATFORMS, ids=str)
def test_networks_exported_for_batches_of_any_size(platforms):
    for model, shape in (
        (SMALL, (12, 12, 3)),
        (create_model("rotated_mnist", "cnn", width=1 / 16), (28, 28, 1)),
    ):
        images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
        variables = jax.jit(model.init)(jax.random.key(0), images)
        batch = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *shape), np.float32)
        exported = export.export(jax.jit(model.apply), platforms=platforms)(variables, batch)
        assert ("stablehlo.convolution" in exported.mlir_module()) == (platforms != ("cpu",))
        if "cpu" in platforms:
            reread = export.deserialize(exported.serialize())
            for count in (1, 3):
                expected = jax.jit(model.apply)(variables, images[:count])
                assert_close(reread.call(variables, images[:count]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in STRICT if mode != "transfers"])
def test_networks_in_a_strict_mode(mode):
    images = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    variables = jax.jit(SMALL.init)(jax.random.key(0), images)

    def total(variables):
        rngs = {"dropout": jax.random.key(1)}
        return (SMALL.apply(variables, images, True, rngs=rngs) ** 2).sum()

    expected = jax.jit(jax.value_and_grad(total))(variables)
    gradients = jax.value_and_grad(total)
    with STRICT[mode]():
        found = jax.jit(gradients)(variables)
    assert_close(found, expected)


@pytest.fixture(scope="module")
def on_two_devices(request) -> dict[str, str]:
    """What came of the cases that are asked for, in a process that has two devices."""
    here = Path(__file__)
    asked = [item for item in request.session.items if item.path == here]
    cases = [item.callspec.params["case"] for item in asked if "case" in item.fixturenames]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, str(here.with_name("layers_on_devices.py")), *cases],
        env={**os.environ, "PYTHONPATH": str(here.parents[2]), "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("case", layers_on_devices.CASES)
def test_on_two_devices(on_two_devices, case):
    assert on_two_devices[case] == "ok", on_two_devices[case]
