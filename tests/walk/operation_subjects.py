"""The functions that stand over the sampler, as subjects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from subject import (
    BATCH,
    BOXES,
    COORDINATES,
    FEW,
    FLOWS,
    HOMOGRAPHIES,
    IMAGE,
    MORE,
    PIXELS,
    POSITIONS,
    Subject,
    random,
)

import stn_jax
from stn_jax import augment, warp


def converted(matrix):
    theta = warp.pixel_matrix_to_theta(matrix, (6, 5), (4, 3))
    return theta, warp.theta_to_pixel_matrix(theta, (6, 5), (4, 3), align_corners=True)


def bytes_warped(image, positions):
    """Cast back, so that all results are numbers that losses take; its gradient is 0."""
    photo = jnp.clip(128 + 100 * image, 0, 255).astype(jnp.uint8)
    return stn_jax.on_uint8(stn_jax.remap)(photo, positions).astype(image.dtype)


def occluded(flow, back):
    return stn_jax.occlusion_mask(flow, back).astype(flow.dtype)


def interpolated(order, mode, **options):
    def one(x, where):
        return stn_jax.map_coordinates(x, where, order, mode=mode, **options)

    return jax.vmap(one)


def attended(first, second, locations, weights):
    return stn_jax.multi_scale_deformable_attention([first, second], locations, weights)


def augmented(image, keypoints):
    """A chain of all families, with what was drawn."""
    keys = jax.random.split(jax.random.key(0), 4)
    targets = augment.Targets(image, keypoints=keypoints)
    targets, theta = augment.random_affine(keys[0], targets, angle=20, shift=0.1)
    targets, homography = augment.random_perspective(keys[1], targets, distortion=0.2)
    targets, field = augment.random_elastic(keys[2], targets, magnitude=0.3, smoothness=2.0)
    targets, start = augment.random_crop(keys[3], targets, (4, 4))
    drawn = (theta, homography, field, start.astype(image.dtype))
    return targets.image, targets.keypoints, drawn


def operations() -> dict[str, Subject]:
    """What stands over the sampler."""
    short = (*FEW, "vmap")
    values = random(BATCH, 4, 5, 2, 3, seed=15), random(BATCH, 2, 3, 2, 3, seed=16)
    locations = 0.5 + 0.4 * random(BATCH, 5, 2, 2, 3, 2, seed=17)
    return {
        "pixel matrices": Subject(
            converted,
            (PIXELS,),
            ("warp.pixel_matrix_to_theta", "warp.theta_to_pixel_matrix"),
            ways=short,
        ),
        "warp_affine": Subject(
            functools.partial(stn_jax.warp_affine, shape=(4, 3), fill=0.5),
            (IMAGE, PIXELS),
            ("warp_affine",),
            (0, 1),
            ways=MORE,
        ),
        "warp_affine, antialias": Subject(
            functools.partial(stn_jax.warp_affine, shape=(4, 3), antialias=True),
            (IMAGE, PIXELS),
            ("warp_affine",),
            ways=(*FEW, "vmap", "explicit_mesh", "shard_map"),
        ),
        "warp_perspective": Subject(
            functools.partial(stn_jax.warp_perspective, shape=(4, 3)),
            (IMAGE, HOMOGRAPHIES),
            ("warp_perspective",),
            (0, 1),
            ways=MORE,
        ),
        "remap": Subject(
            functools.partial(stn_jax.remap, fill=np.float32([0.1, 0.2, 0.3])),
            (IMAGE, POSITIONS),
            ("remap",),
            (0, 1),
            symbolic=("b, h, w, 3", "b, n, 3, 2"),
            ways=MORE,
        ),
        "flow_warp": Subject(stn_jax.flow_warp, (IMAGE, FLOWS), ("flow_warp",), (0, 1), ways=MORE),
        # Gradients that are 0 whatever comes are laid out anyhow.
        "occlusion_mask": Subject(
            occluded, (FLOWS, -FLOWS), ("occlusion_mask",), ways=("jit", "strict", "vmap")
        ),
        "on_uint8": Subject(
            bytes_warped, (IMAGE, POSITIONS), ("on_uint8",), ways=("jit", "strict", "vmap")
        ),
        "crop_and_resize": Subject(
            functools.partial(stn_jax.crop_and_resize, shape=(4, 3)),
            (IMAGE, BOXES),
            ("crop_and_resize",),
            (0, 1),
            ways=MORE,
        ),
        **{
            f"roi_align, sampling_ratio={ratio}": Subject(
                functools.partial(stn_jax.roi_align, shape=(2, 2), sampling_ratio=ratio),
                (IMAGE, BOXES),
                ("roi_align",),
                (0, 1),
                ways=MORE,
            )
            for ratio in (-1, 2)
        },
        "map_coordinates": Subject(
            interpolated(3, "mirror"),
            (IMAGE[..., 0], COORDINATES),
            ("map_coordinates",),
            ways=(*FEW, "vmap", "derivatives", "explicit_mesh", "shard_map"),
        ),
        "map_coordinates, order 1": Subject(
            interpolated(1, "constant"),
            (IMAGE[..., 0], COORDINATES),
            ("map_coordinates",),
            ways=(*FEW, "derivatives"),
        ),
        "map_coordinates, deterministic": Subject(
            interpolated(1, "reflect", deterministic=True),
            (IMAGE[..., 0], COORDINATES),
            ("map_coordinates",),
            ways=("jit", "vmap", "exported", "derivatives", "explicit_mesh", "shard_map"),
        ),
        "spline_filter": Subject(
            jax.vmap(stn_jax.spline_filter),
            (IMAGE[..., 0],),
            ("spline_filter",),
            ways=(*FEW, "vmap", "derivatives", "explicit_mesh", "shard_map"),
        ),
        "multi_scale_deformable_attention": Subject(
            attended,
            (*values, locations, random(BATCH, 5, 2, 2, 3, seed=18)),
            ("multi_scale_deformable_attention",),
            ways=MORE,
        ),
        "augment": Subject(
            augmented,
            (IMAGE, 1 + 3 * np.abs(random(BATCH, 2, 2, seed=19))),
            (),
            ways=(*FEW, "vmap"),
        ),
    }
