"""Gradients that are summed in a fixed order: the same values, and no scatter in any program."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from sampling import KERNELS, PADDING_MODES, random_image

import stn_jax
from stn_jax.warp.gathering import ordered_sums, rows
from stn_jax.warp.operations import Sample, adjoint, tangent
from stn_jax.warp.sampling import Sampling

IMAGE = random_image(2, 6, 7, 3)
GRID = np.random.default_rng(1).uniform(-1.4, 1.4, (2, 4, 5, 2)).astype(np.float32)
MATRIX = np.array([[0.9, 0.2, 1], [-0.1, 1.1, 0.3]], np.float32)
HOMOGRAPHY = np.array([[0.9, 0.2, 1], [-0.1, 1.1, 0.3], [0.01, 0, 1]], np.float32)
BOXES = np.array([[0.5, 1, 5, 4.5], [1, 0, 3, 5]], np.float32)
LOCATIONS = np.random.default_rng(2).uniform(0, 1, (2, 5, 3, 1, 2, 2)).astype(np.float32)

CALLS = {
    "grid_sample": lambda image, **o: stn_jax.grid_sample(image, GRID, **o),
    "affine_transform": lambda image, **o: stn_jax.affine_transform(image, MATRIX / 4, **o),
    "affine_transform, antialias": lambda image, **o: stn_jax.affine_transform(
        image, MATRIX, (3, 4), antialias=True, **o
    ),
    "warp_affine": lambda image, **o: stn_jax.warp_affine(image, MATRIX, (6, 7), **o),
    "warp_perspective": lambda image, **o: stn_jax.warp_perspective(image, HOMOGRAPHY, (6, 7), **o),
    "remap": lambda image, **o: stn_jax.remap(image, 3 * GRID + 3, **o),
    "flow_warp": lambda image, **o: stn_jax.flow_warp(image, 3 * GRID, **o),
    "crop_and_resize": lambda image, **o: stn_jax.crop_and_resize(image, BOXES, (3, 4), **o),
    "roi_align": lambda image, **o: stn_jax.roi_align(image, BOXES, (3, 4), sampling_ratio=2, **o),
    "multi_scale_deformable_attention": lambda image, **o: stn_jax.multi_scale_deformable_attention(
        [image[:, :, :, :, None]], LOCATIONS, jnp.ones((2, 5, 3, 1, 2)), **o
    ),
}


def on_accelerator(operation, *args):
    """What a program for an accelerator computes."""
    return jax.jit(functools.partial(operation.compute, cpu=False))(*args)


QUICK = [(2, "bilinear", "border"), (2, "nearest", "reflection"), (3, "bilinear", "zeros")]
SETTINGS = [(*kernel, padding_mode) for kernel in KERNELS for padding_mode in PADDING_MODES]


@pytest.mark.parametrize(
    ("dims", "mode", "padding_mode"),
    [pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow) for each in SETTINGS],
)
def test_the_gradients_are_those_of_the_default(dims, mode, padding_mode):
    image = random_image(2, *(5, 6, 4)[:dims], 3)
    grid = np.random.default_rng(1).uniform(-1.6, 1.6, (2, 4, 3, *[2] * (dims - 2), dims))
    grid.reshape(-1)[:4] = [np.nan, 0.3, 1e30, -0.2]
    sampling = Sampling(dims, None, mode, padding_mode, False)
    ordered = sampling._replace(deterministic=True)
    cotangent = random_image(2, 4, 3, *[2] * (dims - 2), 3, seed=3)
    args = image, np.float32(grid), cotangent
    for one, other in zip(
        on_accelerator(adjoint(Sample(ordered), (True, True)), *args),
        on_accelerator(adjoint(Sample(sampling), (True, True)), *args),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_derivatives_of_gradients_are_those_of_the_default():
    args = IMAGE, GRID, random_image(2, 4, 5, 3, seed=3)
    tangents = [random_image(*x.shape, seed=k) for k, x in enumerate(args, 4)]
    found = []
    for deterministic in (True, False):
        sampling = Sampling(2, None, "bilinear", "border", True, deterministic=deterministic)
        first = adjoint(Sample(sampling), (True, True))
        forward = on_accelerator(tangent(first, (True,) * 3), *args, *tangents)
        reverse = on_accelerator(adjoint(first, (True,) * 3), *args, *tangents[:2])
        found.append([*forward, *reverse])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "grid_sample" else pytest.mark.slow) for name in CALLS],
)
def test_no_program_has_a_scatter(name):
    def gradient(image, **options):
        return jax.grad(lambda image: (CALLS[name](image, **options) ** 2).sum())(image)

    def second(image, **options):
        return jax.grad(lambda image: (gradient(image, **options) ** 2).sum())(image)

    def text(fn, **options):
        program = jax.jit(functools.partial(fn, **options))
        return jax.export.export(program, platforms=["cuda"])(IMAGE).mlir_module()

    assert "stablehlo.scatter" in text(gradient)
    assert "stablehlo.scatter" not in text(gradient, deterministic=True)
    assert "stablehlo.scatter" not in text(second, deterministic=True)
    found = gradient(IMAGE, deterministic=True)
    np.testing.assert_allclose(found, gradient(IMAGE), rtol=1e-5, atol=1e-5)


def test_a_cpu_needs_no_other_program():
    def text(**options):
        gradient = jax.grad(lambda image: stn_jax.grid_sample(image, GRID, **options).sum())
        return jax.jit(gradient).lower(IMAGE).as_text()

    assert text(deterministic=True) == text()


@pytest.mark.parametrize("shape", [(1, 5000, 2), (3, 7, 1), (2, 1, 4)])
def test_sums_by_index(shape):
    rng = np.random.default_rng(0)
    values, index = rng.normal(size=shape).astype(np.float32), rng.integers(0, 5, shape[:2])
    index = np.int32(np.where(index == 3, 4, index))  # none for one, and 4 is dropped
    expected = np.zeros((shape[0], 4, shape[2]))
    for image, row in zip(*np.nonzero(index < 4), strict=True):
        expected[image, index[image, row]] += values[image, row]
    found = jax.jit(ordered_sums, static_argnums=2)(values, index, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_a_nan_stays_in_its_sum():
    values = jnp.array([[[1.0], [jnp.nan], [2.0], [jnp.inf]]])
    index = jnp.array([[0, 1, 2, 3]], jnp.int32)
    np.testing.assert_array_equal(ordered_sums(values, index, 3)[0, :, 0], [1, np.nan, 2])


def test_rows_and_sums_are_transposes_of_each_other():
    x, index = random_image(2, 4, 3), np.int32([[0, 3, 3], [1, 1, 0]])
    weights = random_image(2, 3, 3, seed=1)

    def loss(x):
        return (jnp.sin(rows(x, index, ordered=True)) * weights).sum()

    def expected(x):
        return (jnp.sin(x[jnp.arange(2)[:, None], index]) * weights).sum()

    def squares(f):
        return lambda x: (jax.grad(f)(x) ** 2).sum()

    for f in (lambda f: f, squares):
        found, wanted = (jax.jit(jax.grad(f(each)))(x) for each in (loss, expected))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_number_of_samples_that_is_not_known():
    def program(image, theta):
        return jax.grad(
            lambda image: stn_jax.affine_transform(image, theta, deterministic=True).sum()
        )(image)

    (many,) = jax.export.symbolic_shape("n")
    args = (
        jax.ShapeDtypeStruct((6, 7, 3), jnp.float32),
        jax.ShapeDtypeStruct((many, 2, 3), jnp.float32),
    )
    with pytest.raises(ValueError, match="deterministic=True needs to know the number of samples"):
        jax.export.export(jax.jit(program), platforms=["cuda"])(*args)


def test_strict_promotion_and_wide_types():
    args = [np.float64(x) for x in (IMAGE, GRID, random_image(2, 4, 5, 3, seed=3))]
    strict = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    with jax.enable_x64(True), strict[0], strict[1]:
        one, other = (
            on_accelerator(
                adjoint(
                    Sample(Sampling(2, None, "bilinear", "zeros", False, None, ordered)),
                    (True, False),
                ),
                *args,
            )[0]
            for ordered in (True, False)
        )
    assert one.dtype == np.float64
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
