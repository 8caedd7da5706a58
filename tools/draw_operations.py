"""Draws the picture of docs/operations.md: a test card and the results of the operations.

python -m tools.draw_operations [--output=docs/operations.png]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import stn_jax
from stn_jax import augment
from stn_jax.files import atomic_write
from stn_jax.warp import affine

matplotlib.use("agg")

SIZE = 96
# A box and three keypoints of the card.
BOX = np.float32([[18, 24, 46, 52]])
POINTS = np.float32([[32, 38], [72, 30], [48, 72]])


def card() -> np.ndarray:
    """A grid on the left, rings that become finer outwards on the right, three colored spots."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    radius = np.hypot(x - SIZE / 2, y - SIZE / 2)
    rings = 0.5 + 0.5 * np.cos(radius**2 / 40)
    lines = np.where((x % 12 < 1.5) | (y % 12 < 1.5), 0.25, 0.92)
    image = np.repeat(np.where(x < SIZE / 2, lines, rings)[..., None], 3, -1).astype(np.float32)
    for point, color in zip(
        POINTS, ((0.9, 0.2, 0.2), (0.1, 0.6, 0.9), (0.2, 0.7, 0.2)), strict=True
    ):
        image[np.hypot(x - point[0], y - point[1]) < 6] = color
    return image


def panels(image: np.ndarray) -> list[tuple[str, np.ndarray, augment.Targets | None]]:
    """Titles, pictures and, if boxes and keypoints are drawn, the targets."""
    targets = augment.Targets(
        jnp.asarray(image), boxes=jnp.asarray(BOX), keypoints=jnp.asarray(POINTS)
    )
    matrix = jnp.array([[0.8, -0.35, 25], [0.35, 0.8, -7]])
    homography = jnp.array([[0.9, 0.25, 2], [0.05, 0.85, 8], [0.0008, 0.0035, 1]])
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    flow = np.stack([6 * np.sin(y / 9), 0 * x], -1).astype(np.float32)
    small = (32, 32)
    turned = affine.rotation(12.0)
    box = jnp.asarray(BOX)
    crop: Callable[..., jax.Array] = stn_jax.crop_and_resize
    elastic = augment.random_elastic(jax.random.key(1), targets, magnitude=3.0, smoothness=9.0)[0]
    seen = augment.random_perspective(jax.random.key(2), targets, distortion=0.5)[0]
    cut = augment.random_resized_crop(jax.random.key(4), targets, (SIZE, SIZE), scale=(0.3, 0.5))[0]
    bent = augment.random_thin_plate(jax.random.key(5), targets, magnitude=0.25)[0]
    part = augment.random_crop(jax.random.key(6), targets, (64, 64))[0]
    flipped = augment.random_flip(jax.random.key(7), targets, probability=1.0)[0]
    moved = augment.random_affine(jax.random.key(3), targets, angle=30, scale=(0.7, 0.9))[0]
    shown: list[tuple[str, jax.Array | np.ndarray, augment.Targets | None]] = [
        ("image, box, keypoints", image, targets),
        (
            "affine_transform, reflection",
            stn_jax.affine_transform(image, affine.rotation(30.0), padding_mode="reflection"),
            None,
        ),
        ("warp_affine, fill", stn_jax.warp_affine(image, matrix, (SIZE, SIZE), fill=0.6), None),
        ("warp_perspective", stn_jax.warp_perspective(image, homography, (SIZE, SIZE)), None),
        ("flow_warp, border", stn_jax.flow_warp(image, flow, padding_mode="border"), None),
        ("remap to polar", stn_jax.remap(image, polar()), None),
        ("crop_and_resize", crop(image, box, (SIZE, SIZE))[0], None),
        ("roi_align, 7x7", stn_jax.roi_align(image, box, (7, 7))[0], None),
        ("shrunk to a third", stn_jax.affine_transform(image, turned, small), None),
        (
            "the same, antialias",
            stn_jax.affine_transform(image, turned, small, antialias=True),
            None,
        ),
        ("occlusion_mask", occluded(image), None),
        ("map_coordinates, order 1", enlarged(image, 1), None),
        ("the same, order 3", enlarged(image, 3), None),
        ("random_affine", moved.image, moved),
        ("random_elastic", elastic.image, elastic),
        ("random_thin_plate", bent.image, bent),
        ("random_perspective", seen.image, seen),
        ("random_resized_crop", cut.image, cut),
        ("random_crop", part.image, part),
        ("random_flip", flipped.image, flipped),
    ]
    return [(title, np.asarray(picture), places) for title, picture, places in shown]


def polar() -> jax.Array:
    """Positions (x, y) in pixels: angles from left to right, radii from top to bottom."""
    angle, radius = jnp.meshgrid(jnp.linspace(0, 2 * jnp.pi, SIZE), jnp.linspace(0, SIZE / 2, SIZE))
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return (SIZE - 1) / 2 + radius[..., None] * circle


def enlarged(image: np.ndarray, order: int) -> jax.Array:
    """A part of the image, interpolated by splines."""
    where = jnp.meshgrid(jnp.linspace(12, 36, SIZE), jnp.linspace(62, 86, SIZE), indexing="ij")
    return jax.vmap(
        lambda channel: stn_jax.map_coordinates(channel, where, order, mode="mirror"), -1, -1
    )(jnp.asarray(image))


def occluded(image: np.ndarray) -> jax.Array:
    """The image; in red what its left half hides when it moves to the right by eight pixels."""
    x = jnp.arange(SIZE)
    before, after = ((x < edge) * 8.0 for edge in (SIZE / 2, SIZE / 2 + 8))
    flow, back = (
        jnp.stack([jnp.broadcast_to(dx, (SIZE, SIZE)), jnp.zeros((SIZE, SIZE))], -1)
        for dx in (before, -after)
    )
    mask = stn_jax.occlusion_mask(flow, back)
    return jnp.where(mask[..., None], jnp.array([0.9, 0.2, 0.2]), image)


def draw(output: str) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 5, figsize=(10, 8.6), dpi=100)
    for axis, (title, picture, places) in zip(axes.flat, panels(card()), strict=True):
        axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
        if places is None or places.boxes is None or places.keypoints is None:
            continue
        x0, y0, x1, y1 = np.asarray(places.boxes[0]) - 0.5  # matplotlib's 0 is a pixel's center
        axis.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="tab:orange", linewidth=1.5)
        axis.autoscale(enable=False)
        axis.plot(*np.asarray(places.keypoints).T, "+", color="black", markersize=7)
    figure.tight_layout()
    with atomic_write(Path(output), "wb") as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", default="docs/operations.png")
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
