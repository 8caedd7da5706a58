"""Crops, antialiasing and RoIAlign, against jax.image.resize, closed forms and torchvision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operation_cases import (
    CASES,
    IMAGE,
    assert_close,
    crop_and_resize,
    f32,
)
from record_operation_cases import BOXES, ROI_OPTIONS

import stn_jax
from stn_jax import warp


def test_boxes_are_slices_where_nothing_is_resized():
    image = jnp.asarray(IMAGE, jnp.float32)
    boxes = jnp.array([[2.0, 1, 5, 5], [0, 0, 3, 4], [9, 5, 12, 9]])
    found = crop_and_resize(image, jnp.stack([boxes, boxes + 0]), shape=(4, 3))
    expected = [image[:, 1:5, 2:5], image[:, :4, :3], image[:, 5:9, 9:12]]
    assert_close(found, np.stack(expected, 1))
    mirrored = crop_and_resize(image[0], boxes[:1, jnp.array([2, 1, 0, 3])], shape=(4, 3))
    assert_close(mirrored[0], image[0, 1:5, 4:1:-1])
    volume = jnp.arange(120.0).reshape(4, 5, 6, 1)
    part = crop_and_resize(volume, jnp.array([[1.0, 2, 1, 4, 4, 3]]), shape=(2, 2, 3))
    assert_close(part[0], volume[1:3, 2:4, 1:4])


@pytest.mark.thin("reflection-bilinear-linear", "zeros-bicubic-cubic")
@pytest.mark.parametrize(("mode", "method"), [("bilinear", "linear"), ("bicubic", "cubic")])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_an_antialiased_whole_image_is_resized(mode, method, padding):
    with jax.enable_x64(True):
        for shape in ((3, 4), (5, 30), (9, 12)):
            options = {"mode": mode, "padding_mode": padding, "antialias": True}
            expected = jax.image.resize(IMAGE, (2, *shape, 3), method, antialias=True)
            inner = np.s_[:, 1:-1, :, :] if padding == "reflection" else np.s_[:]
            inner = inner if padding != "reflection" or shape == (9, 12) else np.s_[:0]
            box = np.array([[0.0, 0, 12, 9]])
            found = crop_and_resize(IMAGE, box, shape=shape, **options)[:, 0]
            assert_close(found[inner], expected[inner], 1e-10)
            found = stn_jax.affine_transform(IMAGE, np.eye(2, 3), shape, **options)
            assert_close(found[inner], expected[inner], 1e-10)


@pytest.mark.thin("30.0")
@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, 90.0, 160.0])
def test_no_aliases_where_a_warp_shrinks(angle):
    """A fine stripe pattern fades to its mean; a coarse one stays."""
    y, x = np.mgrid[:96, :96]
    middle = np.s_[4:-4, 4:-4]
    theta = warp.affine.rotation(angle)
    shrink = functools.partial(stn_jax.affine_transform, shape=(32, 32), padding_mode="border")
    fine = (0.5 + 0.5 * np.cos(np.pi * 0.9 * x) * np.cos(np.pi * 0.85 * y)).astype("f4")[..., None]
    assert np.abs(shrink(fine, theta)[middle] - 0.5).max() > 0.2
    assert np.abs(shrink(fine, theta, antialias=True)[middle] - 0.5).max() < 0.03
    coarse = np.sin(x / 16).astype("f4")[..., None]
    plain = shrink(coarse, theta)[middle]
    assert np.abs(shrink(coarse, theta, antialias=True)[middle] - plain).max() < 0.06
    constant = shrink(np.ones((96, 96, 1), "f4"), theta, antialias=True)
    assert_close(constant, 1)


def test_antialiasing_leaves_magnified_images_as_they_are():
    image = jnp.asarray(IMAGE, jnp.float32)
    theta = jnp.array([[0.4, 0, 0.1], [0, 0.3, -0.2]])
    expected = stn_jax.affine_transform(image, theta)
    assert_close(stn_jax.affine_transform(image, theta, antialias=True), expected)


def test_antialiased_edges_fade_into_the_fill():
    image = jnp.ones((8, 8, 1))
    box = jnp.array([[-3.0, 0, 13, 8], [-20, 0, -12, 8]])
    found = crop_and_resize(image, box, shape=(2, 4), fill=jnp.array([0.5]), antialias=True)
    # Columns of four pixels, of which one, four, three and none are in the image.
    assert_close(found[0, 0, :, 0], [0.625, 1, 0.875, 0.5])
    assert_close(found[1], 0.5)


def test_antialiasing_has_no_nearest_pixel():
    with pytest.raises(ValueError, match="with antialias=True expected bilinear or bicubic"):
        stn_jax.affine_transform(jnp.ones((4, 4, 1)), jnp.eye(2, 3), mode="nearest", antialias=True)


def align_by_points(image, box, shape, scale, ratio, aligned):
    """torchvision's kernel (csrc/ops/cpu), point by point; and whether all points are inside."""
    sizes, inside = image.shape[:2], True
    low, high = (np.array(box[k : k + 2][::-1]) * scale - 0.5 * aligned for k in (0, 2))
    extent = high - low if aligned else np.maximum(high - low, 1)
    part = extent / shape
    counts = [ratio if ratio > 0 else max(int(np.ceil(p)), 0) for p in part]
    found = np.zeros((*shape, image.shape[-1]))
    for place in np.ndindex(*shape):
        for point in np.ndindex(*counts):
            at = low + (place + (np.array(point) + 0.5) / counts) * part
            if (at < -1).any() or (at > sizes).any():
                inside = False
                continue
            at = np.clip(at, 0, np.array(sizes) - 1)
            y, x = (
                np.maximum(0, 1 - np.abs(a - np.arange(n))) for a, n in zip(at, sizes, strict=True)
            )
            found[place] += np.einsum("i,j,ijc", y, x, image)
    return found / max(np.prod(counts), 1), inside


@pytest.mark.thin
@pytest.mark.parametrize(("ratio", "aligned", "scale"), ROI_OPTIONS)
def test_roi_align_is_torchvisions(ratio, aligned, scale):
    align = jax.jit(
        functools.partial(
            stn_jax.roi_align,
            shape=(3, 2),
            spatial_scale=scale,
            sampling_ratio=ratio,
            aligned=aligned,
        )
    )
    assert BOXES.shape == (7, 4)
    points = [align_by_points(IMAGE[0], b, (3, 2), scale, ratio, aligned) for b in BOXES]
    expected, inside = np.stack([p[0] for p in points]), [p[1] for p in points]
    assert_close(align(*f32(IMAGE, BOXES))[0], expected, 2e-5)
    with jax.enable_x64(True):
        found = np.asarray(align(IMAGE, BOXES))
    assert_close(found[0], expected, 1e-10)
    # Where a point lies far outside, its implementation in Python repeats the edge.
    recorded = CASES[f"roi_align/{ratio}/{aligned}/{scale}"]
    assert sum(inside) >= 3
    assert_close(found[:, inside], recorded[:, inside], 1e-10)


@pytest.mark.slow
def test_one_image_serves_many_sets_of_boxes():
    image, boxes = f32(IMAGE[0], BOXES)
    for ratio in (-1, 2):
        align = functools.partial(stn_jax.roi_align, shape=(3, 2), sampling_ratio=ratio)
        several = align(image, jnp.stack([boxes, boxes + 1]))
        assert_close(several[1], align(image, boxes + 1))


def test_roi_align_of_a_box_that_is_no_number():
    image, boxes = f32(IMAGE[0], BOXES[:2])
    for ratio in (-1, 2):
        found = stn_jax.roi_align(image, boxes.at[0, 0].set(jnp.nan), (3, 2), sampling_ratio=ratio)
        assert np.isnan(found[0]).all()
        assert np.isfinite(found[1]).all()
