"""Warps by pixel matrices, maps, flows and boxes, against kornia, OpenCV and torchvision.

Their numbers are recorded: see record_operation_cases.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operation_cases import CASES, IMAGE, assert_close, f32, remap, warp_affine, warp_perspective
from record_operation_cases import AFFINE, EXACT, OUT, PERSPECTIVE, SIZE

import stn_jax
from stn_jax import warp


@pytest.mark.thin
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("name", "warped", "matrix"),
    [("affine", warp_affine, AFFINE), ("perspective", warp_perspective, PERSPECTIVE)],
)
def test_pixel_matrices_are_kornias(name, warped, matrix, mode, padding):
    expected = CASES[f"kornia {name}/{mode}/{padding}"]
    options = {"mode": mode, "padding_mode": padding, "align_corners": True}
    assert_close(warped(*f32(IMAGE, matrix), shape=OUT, **options), expected, 2e-5)
    with jax.enable_x64(True):
        assert_close(warped(IMAGE, matrix, shape=OUT, **options), expected, 1e-10)
        back = np.linalg.inv(np.concatenate([matrix, [[[0, 0, 1]]] * 2], 1)[:, :3])
        back = back[:, :2] if name == "affine" else 3.0 * back  # its factor does not count
        found = warped(IMAGE, back, shape=OUT, inverse=True, **options)
        assert_close(found, expected, 1e-10)


def test_the_sign_of_a_homography_does_not_count():
    image, matrix = f32(IMAGE, PERSPECTIVE)
    expected = warp_perspective(image, matrix, shape=OUT)
    assert_close(warp_perspective(image, -matrix, shape=OUT), expected)
    assert_close(warp_perspective(image, 1e-15 * matrix, shape=OUT), expected)


def test_remap_is_kornias():
    assert_close(remap(*f32(IMAGE, CASES["positions"])), CASES["kornia remap"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("border", {"padding_mode": "border"}),
        ("corners", {"padding_mode": "reflection", "align_corners": True}),
        ("edges", {"padding_mode": "reflection"}),
        ("fill", {"fill": CASES["fill"].astype("f4")}),
    ],
)
def test_pixel_matrices_are_opencvs(name, options):
    image, matrix = f32(IMAGE[0], EXACT)
    expected = CASES[f"opencv affine/{name}"]
    assert_close(warp_affine(image, matrix, shape=OUT, inverse=True, **options), expected)


def test_remap_is_opencvs():
    image, positions, fill = f32(IMAGE[0], CASES["opencv positions"], CASES["fill"])
    assert_close(remap(image, positions, fill=fill), CASES["opencv remap"])


# --- converters ----------------------------------------------------------------------------------


@pytest.mark.thin
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", [(2, 3), (3, 3), (3, 4)])
def test_matrices_and_thetas_are_converted_both_ways(kind, inverse, align_corners):
    rng = np.random.default_rng(0)
    sizes, out = ((4, 9, 12), (5, 7, 10)) if kind == (3, 4) else (SIZE, OUT)
    matrix = np.eye(*kind) + 0.1 * rng.normal(size=(5, *kind))
    options = {"inverse": inverse, "align_corners": align_corners}
    with jax.enable_x64(True):
        theta = warp.pixel_matrix_to_theta(matrix, sizes, out, **options)
        found = warp.theta_to_pixel_matrix(theta, sizes, out, **options)
        position = rng.uniform(0, 5, (5, len(sizes)))
    if kind == (3, 3):
        found, matrix = (m / m[..., 2:, 2:] for m in (np.asarray(found), matrix))
    assert_close(found, matrix, 1e-12)
    # What it says of a position, from output to input, is what theta says of it normalized.
    homogeneous = np.concatenate([position, np.ones((5, 1))], 1)[..., None]
    back = matrix if inverse else _inverse(matrix)
    there = (back @ homogeneous)[..., 0]
    ours = np.concatenate([_normalized(position, out, align_corners), np.ones((5, 1))], 1)
    seen = (np.asarray(theta) @ ours[..., None])[..., 0]
    if kind == (3, 3):
        there, seen = there[:, :2] / there[:, 2:], seen[:, :2] / seen[:, 2:]
    assert_close(seen, _normalized(there, sizes, align_corners), 1e-12)


def _inverse(matrix):
    if matrix.shape[-1] == matrix.shape[-2]:
        return np.linalg.inv(matrix)
    last = np.broadcast_to(np.eye(matrix.shape[-1])[-1:], (5, 1, matrix.shape[-1]))
    return np.linalg.inv(np.concatenate([matrix, last], 1))[:, :-1]


def _normalized(position, shape, align_corners):
    sizes = np.array(shape[::-1])
    return 2 * position / (sizes - 1) - 1 if align_corners else (2 * position + 1) / sizes - 1


def test_one_pixel_wide_images_are_moved():
    image = jnp.arange(4.0).reshape(4, 1, 1)
    right = jnp.array([[1.0, 0, 1], [0, 1, 0]])
    for align_corners in (False, True):
        found = stn_jax.warp_affine(image, right, (4, 2), align_corners=align_corners)
        assert_close(found[:, 1], image[:, 0])
        assert_close(found[:, 0], 0)


# --- flow ----------------------------------------------------------------------------------------


def test_a_flow_moves_pixels():
    image = jnp.asarray(IMAGE, jnp.float32)
    flow = jnp.broadcast_to(jnp.array([2.0, -1.0]), (*SIZE, 2))
    found = stn_jax.flow_warp(image, flow)
    assert_close(found[:, 1:, :-2], IMAGE[:, :-1, 2:])
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-5)
    volume = jnp.arange(24.0).reshape(2, 3, 4, 1)
    deeper = stn_jax.flow_warp(volume, jnp.zeros((2, 3, 4, 3)).at[..., 2].set(1))
    assert_close(deeper[0], volume[1])


def test_occlusions():
    """A square of 4 pixels moves 3 to the right over what stands still."""
    forward, backward = np.zeros((10, 12, 2), "f4"), np.zeros((10, 12, 2), "f4")
    forward[3:7, 2:6, 0], backward[3:7, 5:9, 0] = 3, -3
    hidden = np.zeros((10, 12), bool)
    hidden[3:7, 6:9] = True  # what it comes to cover
    np.testing.assert_array_equal(stn_jax.occlusion_mask(forward, backward), hidden)
    out_of_sight = stn_jax.occlusion_mask(np.full((10, 12, 2), 20.0, "f4"), -forward)
    assert out_of_sight.all()
    assert stn_jax.occlusion_mask(np.full((10, 12, 2), np.nan, "f4"), backward).all()


# --- fill ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_a_fill_is_an_image_that_goes_on(mode):
    """As a sampler that knows no outside has it: the image with a wide margin of the fill."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (6, 7, 3)).astype("f4")
    fill = np.float32([0.2, -1.5, 0.7])
    positions = rng.uniform(-4, 10, (8, 9, 2)).astype("f4")
    margin = 8
    wide = np.broadcast_to(fill, (6 + 2 * margin, 7 + 2 * margin, 3)).copy()
    wide[margin:-margin, margin:-margin] = image
    expected = remap(wide, positions + margin, mode=mode)
    assert_close(remap(image, positions, mode=mode, fill=fill), expected)
    halves = remap(image.astype("bfloat16"), positions, mode=mode, fill=fill)
    assert halves.dtype == "bfloat16"
    np.testing.assert_allclose(np.float32(halves), expected, atol=0.02)


def test_a_fill_has_a_gradient_and_leaves_nan_alone():
    image = jnp.asarray(IMAGE[0], jnp.float32)
    positions = jnp.array([[[-5.0, 2.0], [3.2, 4.1], [-0.25, 3.0], [jnp.nan, 1.0]]])

    def total(fill):
        return stn_jax.remap(image, positions, fill=fill)[0, :3].sum(0)

    slope = jax.jacobian(total)(jnp.zeros(3))
    assert_close(slope, 1.25 * np.eye(3))  # one outside, and a quarter of the third
    assert np.isnan(stn_jax.remap(image, positions, fill=1.0)[0, 3]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": 1.0, "padding_mode": "border"}, "a fill needs padding_mode 'zeros'"),
        ({"fill": np.ones(2)}, r"fill has shape \(2,\); expected .*\[3]"),
        ({"fill": np.nan}, "expected finite numbers"),
    ],
)
def test_fills_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stn_jax.grid_sample(jnp.ones((4, 4, 3)), jnp.ones((2, 2, 2)), **options)


# --- deformable attention ------------------------------------------------------------------------


def test_deformable_attention_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    batch, queries, heads, points, channels = 2, 5, 3, 4, 6
    sizes = [(7, 9), (4, 5), (2, 3)]
    values = [rng.normal(size=(batch, h, w, heads, channels)) for h, w in sizes]
    locations = rng.uniform(-0.2, 1.2, (batch, queries, heads, len(sizes), points, 2))
    weights = rng.uniform(0, 1, (batch, queries, heads, len(sizes), points))
    cotangent = rng.normal(size=(batch, queries, heads * channels))

    def reference(values, locations, weights):
        """multi_scale_deformable_attn_pytorch of mmcv, as its authors wrote it."""
        grids = 2 * locations - 1
        sampled = []
        for level, value in enumerate(values):
            maps = value.permute(0, 3, 4, 1, 2).flatten(0, 1)
            grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
            sampled.append(
                torch.nn.functional.grid_sample(
                    maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False
                )
            )
        weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
        total = (torch.stack(sampled, -2).flatten(-2) * weights).sum(-1)
        return total.view(batch, heads * channels, queries).transpose(1, 2)

    args = [torch.tensor(x, requires_grad=True) for x in (*values, locations, weights)]
    expected = reference(args[:3], *args[3:])
    expected.backward(torch.tensor(cotangent))

    def ours(*args):
        found = stn_jax.multi_scale_deformable_attention(args[:3], *args[3:])
        return (found * cotangent.astype(found.dtype)).sum(), found

    gradients = jax.jit(jax.grad(ours, argnums=range(5), has_aux=True))
    with jax.enable_x64(True):
        found, output = gradients(*values, locations, weights)
        assert_close(output, expected.detach(), 1e-10)
        for a, b in zip(found, args, strict=True):
            assert_close(a, b.grad, 1e-9)
    assert_close(gradients(*f32(*values, locations, weights))[1], expected.detach(), 2e-5)


def test_levels_that_do_not_fit():
    value, locations, weights = jnp.ones((1, 4, 4, 2, 3)), jnp.ones((1, 5, 2, 1, 4, 2)), None
    weights = jnp.ones((1, 5, 2, 1, 4))
    attend = stn_jax.multi_scale_deformable_attention
    with pytest.raises(ValueError, match="values has 2 levels and locations 1"):
        attend([value, value], locations, weights)
    with pytest.raises(ValueError, match=r"locations has shape .* and weights"):
        attend([value], locations[..., :1], weights)
    with pytest.raises(ValueError, match=r"values\[0\] is float32\[1, 4, 4, 3, 3\]; expected"):
        attend([jnp.ones((1, 4, 4, 3, 3))], locations, weights)


# --- types, sizes, errors ------------------------------------------------------------------------


def test_bytes_are_rounded_and_saturated():
    image = np.uint8([[[0], [255], [255], [0]]])
    positions = jnp.array([[[0.5, 0], [1.5, 0], [jnp.nan, 0]]])
    found = stn_jax.on_uint8(stn_jax.remap)(image, positions, mode="bicubic")
    assert found.dtype == jnp.uint8
    # Keys' kernel in the middle between pixels: (-3, 19, 19, -3) / 32.
    assert found[0, :, 0].tolist() == [128, 255, 0]  # of 127.5, 302.8 and NaN
    with pytest.raises(TypeError, match="image has type float32; expected uint8"):
        stn_jax.on_uint8(stn_jax.remap)(np.ones((1, 4, 1), "f4"), positions)
    with pytest.raises(TypeError, match="image has type uint8; expected a floating-point array"):
        stn_jax.remap(image, positions)


OPERATIONS = {
    "warp_affine": lambda x: stn_jax.warp_affine(x, jnp.eye(2, 3), (4, 3)),
    "warp_perspective": lambda x: stn_jax.warp_perspective(x, jnp.eye(3), (4, 3)),
    "remap": lambda x: stn_jax.remap(x, jnp.ones((4, 3, 2))),
    "flow_warp": lambda x: stn_jax.flow_warp(x, jnp.ones((4, 3, 2))),
    "antialias": lambda x: stn_jax.affine_transform(x, jnp.eye(2, 3), (4, 3), antialias=True),
    "crop": lambda x: stn_jax.crop_and_resize(x, jnp.ones((1, 4)), (4, 3))[..., 0, :, :, :],
    "roi_align": lambda x: stn_jax.roi_align(x, jnp.ones((1, 4)), (4, 3))[..., 0, :, :, :],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_types_and_empty_batches(name):
    operation = jax.jit(OPERATIONS[name])
    for dtype in ("float16", "bfloat16"):
        found = operation(jnp.ones((2, 6, 5, 3), dtype))
        assert (found.dtype, found.shape) == (jnp.dtype(dtype), (2, 4, 3, 3))
    assert operation(jnp.ones((0, 6, 5, 3))).shape == (0, 4, 3, 3)
    assert operation(jnp.ones((2, 6, 5, 0))).shape == (2, 4, 3, 0)
    with pytest.raises(TypeError, match="image has type int32"):
        operation(jnp.ones((2, 6, 5, 3), jnp.int32))
    with pytest.raises(ValueError, match="image has shape"):
        operation(jnp.ones((6, 5)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: stn_jax.warp_affine(x, jnp.eye(3), (4, 3)), "matrix has shape .* 2, 3"),
        (lambda x: stn_jax.warp_perspective(x, jnp.eye(2, 3), (4, 3)), "matrix has shape .* 3, 3"),
        (lambda x: stn_jax.warp_affine(x, jnp.eye(2, 3), (4,)), "shape is"),
        (lambda x: stn_jax.flow_warp(x, jnp.ones((4, 3, 4))), "flow has shape"),
        (lambda x: stn_jax.remap(x, jnp.ones((2,))), "positions has shape"),
        (
            lambda x: stn_jax.crop_and_resize(x, jnp.ones((4,)), (4, 3)),
            r"boxes .* \[..., K, 4\] or",
        ),
        (lambda x: stn_jax.roi_align(x, jnp.ones((2, 6)), (4, 3)), r"boxes .* \[..., K, 4\]"),
        (
            lambda x: stn_jax.roi_align(x, jnp.ones((2, 4)), (4, 3), sampling_ratio=0),
            "sampling_ratio is 0",
        ),
        (
            lambda x: stn_jax.occlusion_mask(jnp.ones((4, 3, 2)), jnp.ones((3, 4, 2))),
            "expected the same spatial shape",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((6, 5, 3)))
