"""Gradients that are summed in a fixed order: the same values, and no scatter in any program."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sampling import KERNELS, PADDING_MODES, random_image

import stn_jax
import stn_jax.nnx
from stn_jax import augment
from stn_jax.models import Classifier
from stn_jax.warp import transforms
from stn_jax.warp.gathering import ordered_sums, rows
from stn_jax.warp.operations import Sample, adjoint, tangent
from stn_jax.warp.sampling import Sampling

IMAGE = random_image(2, 6, 7, 3)
GRID = np.random.default_rng(1).uniform(-1.4, 1.4, (2, 4, 5, 2)).astype(np.float32)
MATRIX = np.array([[0.9, 0.2, 1], [-0.1, 1.1, 0.3]], np.float32)
HOMOGRAPHY = np.array([[0.9, 0.2, 1], [-0.1, 1.1, 0.3], [0.01, 0, 1]], np.float32)
BOXES = np.array([[0.5, 1, 5, 4.5], [1, 0, 3, 5]], np.float32)
LOCATIONS = np.random.default_rng(2).uniform(0, 1, (2, 5, 3, 1, 2, 2)).astype(np.float32)

FIELD = np.random.default_rng(4).uniform(-1, 1, (2, 6, 7, 2)).astype(np.float32)
SAMPLES = np.random.default_rng(3).uniform(-1, 7, (2, 9)).astype(np.float32)
ORDERS = {"constant": 1, "mirror": 3, "grid-constant": 2}
KEY = jax.random.key(0)


def drawn(name, *args, **fixed):
    """The augmentation of a name, of images alone."""
    function = getattr(augment, name)
    random = [KEY] if name.startswith("random") else []

    def call(image, **options):
        found = function(*random, augment.Targets(image), *args, **fixed, **options)
        return (found if isinstance(found, augment.Targets) else found[0]).image

    return call


def splines(order, mode):
    def call(image, **options):
        return stn_jax.map_coordinates(image[0, ..., 0], SAMPLES, order, mode=mode, **options)

    return call


def linen(image, **options):
    module = stn_jax.SpatialTransformer(lambda x: x.mean((1, 2)), **options)
    return module.init_with_output(KEY, image)[0]


def in_nnx(image, **options):
    localization = lambda x: x.mean((1, 2))  # noqa: E731
    return stn_jax.nnx.SpatialTransformer(localization, 3, rngs=nnx.Rngs(0), **options)(image)


def study(image, **options):
    model = stn_jax.create_model("plain", "stn-c1", classifier="small", width=1 / 8, **options)
    return model.init_with_output(KEY, image)[0]


def own(image, **options):
    classifier = Classifier([lambda x: x], lambda x: x)
    return stn_jax.create_network(classifier, "stn-c1", **options).init_with_output(KEY, image)[0]


def family(name):
    def call(image, **options):
        made = transforms.resolve(name)
        return made.warp(image, made.theta(jnp.full(made.size, 0.1)), (3, 4), **options)

    return call


# By public name; what follows a comma tells several calls of one apart.
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
    **{f"map_coordinates, {mode}": splines(order, mode) for mode, order in ORDERS.items()},
    "SpatialTransformer": linen,
    "nnx.SpatialTransformer": in_nnx,
    "create_model": study,
    "create_network": own,
    **{f"transforms.{each.__name__}.warp": family(n) for n, each in transforms.FAMILIES.items()},
    "augment.apply_theta": drawn("apply_theta", np.stack([MATRIX / 4] * 2)),
    "augment.apply_displacement": drawn("apply_displacement", FIELD),
    "augment.random_affine": drawn("random_affine", angle=20),
    "augment.random_perspective": drawn("random_perspective"),
    "augment.random_elastic": drawn("random_elastic"),
    "augment.random_thin_plate": drawn("random_thin_plate"),
    "augment.random_resized_crop": drawn("random_resized_crop", (3, 4), antialias=False),
}
# Those whose gradients always have the same bits.
ALWAYS = {
    "roi_align": lambda image: stn_jax.roi_align(image, BOXES, (3, 4)),
    "spline_filter": stn_jax.spline_filter,
    "augment.random_crop": drawn("random_crop", (3, 4)),
    "augment.random_flip": drawn("random_flip"),
}
# Those that give numbers without a gradient, and networks as they were trained.
OTHERS = {"occlusion_mask", "on_uint8", "load_pretrained", "load_run", "affine_grid"}


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


def gradient_of(call, image, **options):
    return jax.grad(lambda image: (call(image, **options) ** 2).sum())(image)


def second_of(call, image, **options):
    return jax.grad(lambda image: (gradient_of(call, image, **options) ** 2).sum())(image)


def unordered_sums(derivative, call, **options):
    """Whether its program for a GPU has a scatter that may add to a pixel more than once."""
    program = jax.jit(functools.partial(derivative, call, **options))
    text = jax.export.export(program, platforms=["cuda"])(IMAGE).mlir_module()
    scatters = [line for line in text.splitlines() if '"stablehlo.scatter"(' in line]
    return any("unique_indices = true" not in line for line in scatters)


def test_no_public_operation_is_left_out():
    rooms = {"": stn_jax, "nnx.": stn_jax.nnx, "augment.": augment}
    names = {f"{room}{name}" for room, module in rooms.items() for name in module.__all__}
    names |= {f"transforms.{each.__name__}.warp" for each in transforms.FAMILIES.values()}
    known = {name.partition(",")[0] for name in CALLS}
    assert names == known | ALWAYS.keys() | OTHERS | {"augment.Targets"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.thin("grid_sample", "map_coordinates, constant")
def test_no_program_sums_in_no_order(name):
    call = CALLS[name]
    assert unordered_sums(gradient_of, call)
    assert not unordered_sums(gradient_of, call, deterministic=True)
    assert not unordered_sums(second_of, call, deterministic=True)
    found = gradient_of(call, IMAGE, deterministic=True)
    np.testing.assert_allclose(found, gradient_of(call, IMAGE), rtol=1e-5, atol=1e-5)


@pytest.mark.thin("roi_align", "spline_filter")
@pytest.mark.parametrize("name", ALWAYS)
def test_some_need_no_order(name):
    assert not unordered_sums(gradient_of, ALWAYS[name])
    assert not unordered_sums(second_of, ALWAYS[name])


def test_a_cpu_needs_no_other_program():
    def text(**options):
        gradient = jax.grad(lambda image: stn_jax.grid_sample(image, GRID, **options).sum())
        return jax.jit(gradient).lower(IMAGE).as_text()

    assert text(deterministic=True) == text()


def test_splines_need_no_sort_on_a_cpu():
    call = CALLS["map_coordinates, mirror"]
    program = jax.jit(functools.partial(gradient_of, call, deterministic=True))
    assert "stablehlo.sort" not in program.lower(IMAGE).as_text()
    assert "stablehlo.sort" in jax.export.export(program, platforms=["cuda"])(IMAGE).mlir_module()


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("axes", [(0, 0), (1, None), (None, 2), (2, 1)])
def test_rows_and_sums_are_mapped(size, axes):
    rng = np.random.default_rng(0)
    x = (
        random_image(2, 5, 3)
        if axes[0] is None
        else random_image(*np.insert([2, 5, 3], axes[0], 6))
    )
    shape = [2, 5] if axes[1] is None else np.insert([2, 5], axes[1], 6)
    index = rng.integers(0, 5, shape).astype(np.int32)

    def call(x, index):
        if size is None:
            return jnp.sin(rows(x, index, ordered=True))
        return jnp.sin(ordered_sums(x, index, size))

    def both(x, index):
        return call(x, index), jax.grad(lambda x: (call(x, index) ** 2).sum())(x)

    found = jax.jit(jax.vmap(both, axes))(x, index)
    for k in range(6):
        one = (
            each if axis is None else np.take(each, k, axis)
            for each, axis in zip((x, index), axes, strict=True)
        )
        for a, b in zip(found, both(*one), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-5, atol=1e-6)


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
