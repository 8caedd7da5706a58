"""The implementations of a warp against each other, and what is forced or chosen where."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from sampling import EXACT_SHAPE, KERNELS, PADDING_MODES, pixels_to_normalized, random_image

from stn_jax import affine_transform, grid_sample
from stn_jax.warp import kernels, native
from stn_jax.warp.primitives import force_implementation

needs_native = pytest.mark.skipif(not native.available(), reason=native.status())
IMPLEMENTATIONS = ["xla", pytest.param("native", marks=needs_native)]


def derivatives(implementation, warp, *args):
    """A warp, and its gradients to both arguments: together, and to each alone."""

    def everything(*args):
        out, pull_back = jax.vjp(warp, *args)
        cotangent = jnp.cos(1.7 * jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
        together = pull_back(cotangent)
        if implementation == "xla":
            return out, together, together
        alone = [
            jax.vjp(lambda x, k=k: warp(*args[:k], x, *args[k + 1 :]), args[k])[1](cotangent)[0]
            for k in range(2)
        ]
        return out, together, tuple(alone)

    with force_implementation(implementation):
        return jax.jit(everything)(*args)


def assert_same(one, other, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        scale = max(1, np.nanmax(np.abs(b), initial=0, where=np.isfinite(b)))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.thin
@needs_native
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("rank", "mode"), KERNELS)
def test_native_and_plain_are_the_same(rank, mode, padding_mode, align_corners):
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    for channels, seed in ((3, 1), (17, 2)):
        image = random_image(2, *(5, 7, 4)[:rank], channels, seed=seed)
        rng = np.random.default_rng(seed)
        grid = rng.uniform(-1.8, 1.8, (2, *(3, 4, 2)[:rank], rank)).astype(np.float32)
        grid.reshape(-1)[:6] = [np.nan, 0.3, np.inf, -0.2, -np.inf, 1e30]
        theta = np.float32(np.eye(rank, rank + 1) + rng.normal(size=(2, rank, rank + 1)) / 3)
        by_grid = functools.partial(grid_sample, **options)
        by_theta = functools.partial(affine_transform, shape=(4, 3, 2)[:rank], **options)
        warp, where = (by_grid, grid) if channels == 3 else (by_theta, theta)
        assert_same(
            derivatives("native", warp, image, where), derivatives("xla", warp, image, where)
        )


@needs_native
@pytest.mark.parametrize(
    ("image", "theta"), [((1, 3), (2, 3)), ((2, 1), (2, 3)), ((2, 3), (1, 3)), ((), (2, 3))]
)
def test_leading_axes_broadcast(image, theta):
    image = random_image(*image, 5, 4, 3)
    theta = np.float32(np.eye(2, 3) * 0.9) + random_image(*theta, 2, 3, seed=1) / 3
    both = [derivatives(name, affine_transform, image, theta) for name in ("native", "xla")]
    assert_same(*both)


@pytest.mark.thin
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("rank", "mode"), KERNELS)
def test_a_position_that_is_nan_gives_no_gradient_to_any_pixel(
    rank, mode, padding_mode, implementation
):
    image = random_image(*(4, 5, 3)[:rank], 2)
    grid = random_image(*(2, 3, 2)[:rank], rank, seed=1)
    hostile = grid.copy()
    hostile[(0,) * rank] = np.nan
    kept = np.ones(grid.shape[:-1], bool)
    kept[(0,) * rank] = False
    options = {"mode": mode, "padding_mode": padding_mode}

    def gradient(grid, counted):
        def total(image):
            return jnp.where(counted[..., None], grid_sample(image, grid, **options), 0).sum()

        return jax.grad(total)(image)

    with force_implementation(implementation):
        found = jax.grad(lambda image: grid_sample(image, hostile, **options).sum())(image)
        expected = gradient(grid, kept)
        assert np.isnan(grid_sample(image, hostile, **options)[(0,) * rank]).all()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_an_infinite_pixel_at_the_edge_is_infinite_beyond_it(padding_mode, implementation):
    """As in PyTorch: past the last pixel there is no other to be weighted with 0."""
    image = np.zeros((*EXACT_SHAPE[2, True], 1), np.float32)
    height, width = image.shape[:2]
    image[:, -1] = np.inf
    positions = [[[width - 1, y + 0.5] for y in range(height - 1)]]  # between two such pixels
    grid = pixels_to_normalized(positions, image.shape[:2], True)
    with force_implementation(implementation):
        options = {"padding_mode": padding_mode, "align_corners": True}
        found = grid_sample(image, grid.astype(np.float32), **options)
    np.testing.assert_array_equal(found, np.full(found.shape, np.inf))


def lowered(warp, *args, implementation=None, platforms=None):
    """The text of a program, as it is lowered for this machine or exported for platforms."""
    with force_implementation(implementation):
        if platforms is None:
            return jax.jit(warp).lower(*args).as_text()
        return jax.export.export(jax.jit(warp), platforms=platforms)(*args).mlir_module()


@needs_native
def test_a_program_calls_the_kernels_but_an_exported_one_only_if_it_is_asked_to():
    image, theta = random_image(4, 5, 3), np.eye(2, 3, dtype=np.float32)
    gradient = jax.grad(lambda *a: affine_transform(*a).sum(), (0, 1))
    here = lowered(affine_transform, image, theta)
    assert native.SAMPLE in here
    assert "gather" not in here
    assert native.ADJOINT in lowered(gradient, image, theta)
    assert "stn_jax_sample" not in lowered(affine_transform, image, theta, platforms=("cpu",))
    assert "stn_jax_sample" not in lowered(affine_transform, image, theta, implementation="xla")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_program_for_another_platform_has_that_platforms_form(platform):
    """Small maps of many channels: on accelerators a product, on a CPU a scatter."""
    image, theta = random_image(2, 6, 6, 32), np.eye(2, 3, dtype=np.float32)
    gradient = jax.grad(lambda image: affine_transform(image, theta).sum())
    text = lowered(gradient, image, platforms=(platform,))
    assert "dot_general" in text
    assert "stablehlo.case" not in text  # the fence of CPUs
    assert not re.search(r"stablehlo\.scatter", text)
    assert "stablehlo.scatter" in lowered(gradient, image, platforms=("cpu",))


def test_a_forced_implementation_is_part_of_the_compilation_key():
    """A program traced before is not taken for another implementation."""
    image, theta = random_image(4, 5, 3), np.eye(2, 3, dtype=np.float32)
    program = jax.jit(affine_transform)
    texts = []
    for name in (None, "xla", "xla"):
        with force_implementation(name):
            texts.append(program.lower(image, theta).as_text())
    assert texts[1] == texts[2]
    assert "gather" in texts[1]
    if native.available():
        assert texts[0] != texts[1]
    else:
        with (
            force_implementation("native"),
            pytest.raises(RuntimeError, match="native kernels are not available"),
        ):
            program(image, theta)


@pytest.mark.thin
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("rank", "mode"), KERNELS)
def test_gathers_keep_their_promise(rank, mode, padding_mode):
    """No index is outside of the image, whatever the position: XLA is told so."""
    image = random_image(*(4, 5, 3)[:rank], 2)
    positions = np.float32([np.nan, np.inf, -np.inf, -3e38, 3e38, -1.01, 1.01, 0.2])
    grid = np.stack(np.meshgrid(*[positions] * rank), -1)
    found = []

    def watched(x, index, *args, **options):
        jax.debug.callback(
            lambda i, n=x.shape[1]: found.append((i.min() >= 0) & (i.max() < n)), index
        )
        return gather(x, index, *args, **options)

    gather = jax.lax.gather
    with pytest.MonkeyPatch.context() as patch, force_implementation("xla"):
        patch.setattr(jax.lax, "gather", watched)
        options = {"mode": mode, "padding_mode": padding_mode}
        jax.block_until_ready(jax.jit(lambda x, g: grid_sample(x, g, **options))(image, grid))
        jax.effects_barrier()
    assert found
    assert all(found)


@pytest.mark.thin
@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_the_accelerators_implementation_computes_the_same_as_the_cpus(wanted, channels):
    """A product with a matrix of weights where maps are small and channels many."""
    image, grid = random_image(2, 1, 6, 6, channels), random_image(1, 3, 4, 5, 2, seed=1)
    cotangent = random_image(2, 3, 4, 5, channels, seed=2)
    sampling = kernels.Sampling(2, None, "bilinear", "zeros", False)
    with jax.default_matmul_precision("bfloat16"):  # which must not count
        found, expected = (
            kernels.adjoint(image, jnp.asarray(grid), cotangent, sampling, wanted, cpu=cpu)
            for cpu in (False, True)
        )
    assert_same(found, expected)


def test_more_pixels_than_an_index_can_count_are_rejected():
    image = jax.ShapeDtypeStruct((2**16, 2**15, 1), np.float32)
    with pytest.raises(ValueError, match=r"2147483648 pixels.*parts of it"):
        jax.eval_shape(affine_transform, image, np.eye(2, 3, dtype=np.float32))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("jit", [False, True])
def test_a_search_for_nans_ends_at_the_warp_that_gave_one(implementation, jit):
    image, theta = np.ones((1, 4, 5, 2), np.float32), np.full((1, 2, 3), np.nan, np.float32)
    with force_implementation(implementation), jax.debug_nans(True):
        warp = functools.partial(affine_transform, padding_mode="border")
        warp = jax.jit(warp) if jit else warp
        np.testing.assert_array_equal(warp(image, np.zeros_like(theta)), np.ones((1, 4, 5, 2)))
        with pytest.raises(FloatingPointError):
            warp(image, theta)


@pytest.mark.thin
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("wide", [False, True])
def test_types_are_kept_where_a_program_is_lowered_under_another_setting(implementation, wide):
    dtype = "float64" if wide else "float32"
    image = np.asarray(random_image(2, 4, 5, 2), dtype)
    theta = np.asarray(np.eye(2, 3) + np.linspace(-0.2, 0.2, 12).reshape(2, 2, 3), dtype)
    loss = jax.jit(jax.value_and_grad(lambda i, t: affine_transform(i, t).sum(), (0, 1)))
    with force_implementation(implementation):
        with jax.enable_x64(wide):
            traced, expected = loss.trace(image, theta), loss(image, theta)
        with jax.enable_x64(not wide):
            compiled = traced.lower().compile()
        with jax.enable_x64(wide):
            assert_same(compiled(image, theta), expected, 1e-12 if wide else 1e-6)
            assert all(x.dtype == dtype for x in jax.tree.leaves(expected))
