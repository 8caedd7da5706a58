"""Draws house numbers: labels, a scene that shows them, and the camera's view of it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.data.cache import Split
from stn_jax.data.street import camera, scene, statistics
from stn_jax.data.street.camera import SIDE
from stn_jax.data.street.chance import Chance
from stn_jax.data.street.knobs import Knobs
from stn_jax.data.tasks import example_keys
from stn_jax.warp import affine, affine_transform, transforms

NONE = 10  # the class of a position without a digit
POSITIONS = statistics.POSITIONS
SPLITS = ("train", "test")


class Number(NamedTuple):
    """A generated crop and what it shows."""

    image: jax.Array  # [SIDE, SIDE, 3], float32 in [0, 1]
    labels: jax.Array  # [POSITIONS], int32: digits, then NONE


def draw_labels(key: jax.Array) -> jax.Array:
    """Draws a number as SVHN has them: its length, and the digit at each position given that.

    Returns:
      int32 ``[POSITIONS]``: digits, then ``NONE``.
    """
    counts = np.zeros((POSITIONS, POSITIONS, 10), np.float32)
    for length, rows in enumerate(statistics.DIGITS):
        counts[length, : length + 1] = rows
    with np.errstate(divide="ignore"):
        logits = np.log(counts)  # -inf: never
    logits[:, :, 0] = np.where(counts.sum(-1) > 0, logits[:, :, 0], 0.0)
    key_length, key_digits = jax.random.split(key)
    index = jax.random.categorical(key_length, np.log(counts[:, 0].sum(-1)))
    digits = jax.random.categorical(key_digits, jnp.asarray(logits)[index])
    return jnp.where(jnp.arange(POSITIONS) <= index, digits, NONE).astype(jnp.int32)


def draw(key: jax.Array, labels: jax.Array, knobs: Knobs = Knobs()) -> jax.Array:
    """Draws a crop that shows a number.

    A pure function for one key; ``jax.vmap`` makes a batch of it. Positions, and nothing else, are
    sampled by :func:`stn_jax.warp.grid_sample` and :func:`stn_jax.warp.affine_transform`.

    Args:
      key: a key.
      labels: integers ``[POSITIONS]``: one digit or more, then ``NONE``.
      knobs: strengths; static under jit.

    Returns:
      ``[SIDE, SIDE, 3]``, float32 in [0, 1].

    Raises:
      ValueError: labels have another shape.
    """
    labels = jnp.asarray(labels)
    if labels.shape != (POSITIONS,):
        raise ValueError(
            f"labels have shape {labels.shape}; expected ({POSITIONS},): vmap over a batch"
        )
    key_layout, key_paint, key_camera, key_texture, key_noise = jax.random.split(key, 5)
    chance = Chance(key_layout, 80)
    row, view = scene.slope(chance, scene.place(chance, labels.astype(int), knobs), knobs)
    window, pixels = _frame(chance, row, view, labels, knobs)
    # JPEG's blocks begin anywhere.
    origin = jnp.floor(chance.uniform(0, 8, (2,)) * (knobs.jpeg > 0))
    origin = jnp.minimum(origin, jnp.floor(SIDE - pixels))

    # From the array's [-1, 1] to the crop's, to the photograph, to the number's frame.
    to_crop = affine.from_parameters(scale=SIDE / pixels, shift=(SIDE - 2 * origin) / pixels - 1)
    low, high = window
    to_view = affine.from_parameters(scale=(high - low) / 2, shift=(high + low) / 2)
    family = transforms.Projective()
    lookup = family.compose(_inverse(view), _homography(affine.compose(to_view, to_crop)))
    positions = family.grid_of(lookup, (SIDE, SIDE))
    across = family.grid_of(_homography(to_crop), (SIDE, SIDE))
    pixel = jnp.sqrt(jnp.prod((high - low) / pixels))

    image = scene.paint(
        Chance(key_paint, 120), row, positions, across, pixel, _textures(key_texture), knobs
    )
    chance = Chance(key_camera, 16)
    image = camera.expose(chance, jnp.clip(image, 0, 1.1), knobs)
    image = camera.grain(chance, key_noise, image, knobs)
    image = camera.compress(chance, jnp.clip(image, 0, 1), knobs)
    return jnp.clip(camera.enlarge(image, origin, pixels), 0, 1)


def number(key: jax.Array, knobs: Knobs = Knobs()) -> Number:
    """Draws a number and a crop that shows it; ``jax.vmap`` makes a batch of it."""
    key_labels, key_image = jax.random.split(key)
    labels = draw_labels(key_labels)
    return Number(draw(key_image, labels, knobs), labels)


def make(
    split: str, count: int, *, seed: int = 0, batch_size: int = 256, knobs: Knobs = Knobs()
) -> Split:
    """Makes a split of a synthetic data set in compiled batches.

    What an example looks like depends on split, seed and its place alone: a longer split begins as
    a shorter one does.

    Args:
      split: "train" or "test", which have nothing in common.
      count: number of examples.
      seed: of both splits.
      batch_size: how many are drawn at a time; memory grows with it.
      knobs: strengths.

    Returns:
      Images uint8 ``[count, SIDE, SIDE, 3]`` and labels int32 ``[count, POSITIONS]``, read-only.

    Raises:
      ValueError: split is another, or count or batch_size is less than 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if count < 1 or batch_size < 1:
        raise ValueError(f"count is {count}, batch_size {batch_size}; expected at least 1")
    key = jax.random.fold_in(jax.random.key(seed), SPLITS.index(split))
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = np.empty((count, POSITIONS), np.int32)
    for start in range(0, count, batch_size):
        batch = _batch(key, start + jnp.arange(batch_size), knobs)
        end = min(count, start + batch_size)
        images[start:end], labels[start:end] = (np.asarray(x)[: end - start] for x in batch)
    images.flags.writeable = labels.flags.writeable = False
    return Split(images, labels)


@functools.partial(jax.jit, static_argnames="knobs")
def _batch(key: jax.Array, indices: jax.Array, knobs: Knobs) -> tuple[jax.Array, jax.Array]:
    numbers = jax.vmap(functools.partial(number, knobs=knobs))(example_keys(key, indices))
    return jnp.round(numbers.image * 255).astype(jnp.uint8), numbers.labels


def _frame(
    chance: Chance, row: scene.Row, view: jax.Array, labels: jax.Array, knobs: Knobs
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """The crop's corners (low, high), each ``[2]``, in the view, and its pixels ``[2]``."""
    boxes, there = scene.corners(row)
    homogeneous = jnp.concatenate([boxes, jnp.ones((POSITIONS, 4, 1))], -1)
    seen = jnp.einsum("ij,pkj->pki", view, homogeneous, precision=jax.lax.Precision.HIGHEST)
    seen = seen[..., :2] / seen[..., 2:]
    there = there[:, None, None]
    low = jnp.where(there, seen, jnp.inf).min((0, 1))
    high = jnp.where(there, seen, -jnp.inf).max((0, 1))
    tall = jnp.where(there[:, 0, 0], jnp.ptp(seen[..., 1], axis=1), 0).sum() / there.sum()
    # People drew the boxes: rather too large than too small.
    loose = knobs.framing * (0.02 + chance.normal(0.035, (2, 2)))
    low, high = low - loose[0], high + loose[1]
    margin = 0.15 * (high - low)
    top = chance.quantile(statistics.LEVELS, statistics.TOP)
    bottom = chance.quantile(statistics.LEVELS, statistics.BOTTOM)
    inside = jnp.stack([jnp.array([1.0, 1.0]), jnp.array([1.0, 1.0])])
    inside = inside.at[0, 1].set(1 - jnp.minimum(knobs.framing, 1.0) * (1 - top))
    inside = inside.at[1, 1].set(1 - jnp.minimum(knobs.framing, 1.0) * (1 - bottom))
    low, high = low - margin * inside[0], high + margin * inside[1]

    height = jnp.asarray(statistics.HEIGHT)[(labels < NONE).sum() - 1]
    height = chance.quantile(statistics.LEVELS, height)
    # A photograph of more pixels than the crop looks no better than one of as many.
    pixels = jnp.clip((high - low) * height / tall, 8, SIDE)
    pixels = SIDE * (pixels / SIDE) ** knobs.resolution
    return (low, high), jnp.maximum(pixels, 8.0)


def _textures(key: jax.Array) -> jax.Array:
    """A coarse and a fine texture, ``[SIDE, SIDE, 2]``, normal about 0."""
    keys = jax.random.split(key)
    shapes = ((7, 7, 1), (40, 40, 1))
    return jnp.concatenate(
        [
            affine_transform(
                jax.random.normal(key, shape), affine.identity(), (SIDE, SIDE), mode="bicubic",
                padding_mode="border",
            )
            for key, shape in zip(keys, shapes, strict=True)
        ],
        -1,
    )


def _inverse(view: jax.Array) -> jax.Array:
    """The inverse of a homography that keeps the origin where it is."""
    linear = affine.invert(view[:2])
    vanish = -(view[2, 0] * linear[0] + view[2, 1] * linear[1])
    return jnp.concatenate([linear, vanish[None].at[0, 2].set(1.0)])


def _homography(theta: jax.Array) -> jax.Array:
    """A theta ``[2, 3]`` as ``[3, 3]``."""
    return jnp.concatenate([theta, jnp.array([[0.0, 0.0, 1.0]])])
