"""Generates house numbers: labels, a scene with the digits, and the camera's view of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stn_jax.data import cache
from stn_jax.data.distortions import example_keys
from stn_jax.data.house_numbers import CLASSES, GROWTH, NONE, POSITIONS, SIDE
from stn_jax.data.image_sets import Source, Split
from stn_jax.progress import Progress
from stn_jax.street_numbers import camera, digit_row, scene, svhn_statistics
from stn_jax.street_numbers.generator_config import AS_IN_SVHN, GeneratorConfig
from stn_jax.street_numbers.random_draws import RandomDraws
from stn_jax.warp import affine, affine_transform, transforms

NAME = "street_numbers"
SPLITS = {"train": 235_754, "test": 13_068}  # SVHN's sizes; train is SVHN's train and extra
# Mean and standard deviation of red, green and blue, over 8,192 crops of make("train").
MEAN = np.array([0.4590, 0.4697, 0.4957], np.float32)
DEVIATION = np.array([0.2177, 0.2151, 0.2222], np.float32)
# The same, rendered once and cached: smaller, but as fast to train on as photographs.
KEPT = "street_numbers/30k"
KEPT_SPLITS = {"train": 30_000, "test": 2_000}
VERSION = "1.0.0"
_GRAIN = 40  # independent values along a side of the fine texture
_PROJECTIVE = transforms.Projective()


class Number(NamedTuple):
    """A generated crop and its labels."""

    image: jax.Array  # [SIDE, SIDE, 3], float32 in [0, 1]
    labels: jax.Array  # [POSITIONS], int32: digits, then NONE


def draw_labels(key: jax.Array) -> jax.Array:
    """Draws a number with SVHN's statistics: its length, then the digits given the length.

    Returns:
      int32 ``[POSITIONS]``: digits, then ``NONE``.
    """
    counts = np.zeros((POSITIONS, POSITIONS, 10))
    for row, rows in zip(counts, svhn_statistics.DIGITS, strict=True):
        row[: len(rows)] = rows
    with np.errstate(divide="ignore"):
        logits = np.log(counts).astype(np.float32)  # -inf: never
    key_length, key_digits = jax.random.split(key)
    last = jax.random.categorical(key_length, np.log(counts[:, 0].sum(-1)).astype(np.float32))
    digits = jax.random.categorical(key_digits, jnp.asarray(logits)[last])
    return jnp.where(jnp.arange(POSITIONS) <= last, digits, NONE).astype(jnp.int32)


def draw(key: jax.Array, labels: jax.Array, config: GeneratorConfig = AS_IN_SVHN) -> jax.Array:
    """Renders a crop of a house number.

    A pure function of one key; use ``jax.vmap`` for batches. All sampling is done by
    :func:`stn_jax.warp.grid_sample` and :func:`stn_jax.warp.affine_transform`.

    Args:
      key: a key.
      labels: integers ``[POSITIONS]``: one digit or more, then ``NONE``.
      config: strengths.

    Returns:
      ``[SIDE, SIDE, 3]``, float32 in [0, 1].

    Raises:
      ValueError: labels have another shape.
    """
    labels = jnp.asarray(labels).astype(jnp.int32)
    if labels.shape != (POSITIONS,):
        raise ValueError(
            f"labels have shape {labels.shape}; expected ({POSITIONS},): vmap over a batch"
        )
    key_layout, key_paint, key_camera, key_texture, key_noise = jax.random.split(key, 5)
    draws = RandomDraws(key_layout, 64)
    row, view = digit_row.slope(draws, digit_row.arrange(draws, labels, config), config)
    low, high, pixels = _frame(draws, row, view, labels, config)
    # JPEG's blocks may start anywhere.
    origin = jnp.floor(draws.uniform(0, jnp.where(config.jpeg > 0, 8, 0), (2,)))
    origin = jnp.minimum(origin, jnp.floor(SIDE - pixels))

    # From the array's [-1, 1] to the crop's, to the view, to the number's frame.
    to_crop = affine.from_parameters(scale=SIDE / pixels, shift=(SIDE - 2 * origin) / pixels - 1)
    to_view = affine.from_parameters(scale=(high - low) / 2, shift=(high + low) / 2)
    to_number = _PROJECTIVE.compose(_inverse(view), _homography(affine.compose(to_view, to_crop)))
    canvas = scene.Canvas(
        draws=RandomDraws(key_paint, 96),
        config=config,
        positions=_PROJECTIVE.grid_of(to_number, (SIDE, SIDE)),
        across=_PROJECTIVE.grid_of(_homography(to_crop), (SIDE, SIDE)),
        pixel=jnp.sqrt(jnp.prod((high - low) / pixels)),
        textures=_textures(key_texture),
    )
    image = jnp.clip(scene.paint(canvas, row), 0, 1.1)  # slightly overexposed white is allowed
    draws = RandomDraws(key_camera, 12)
    image = camera.expose(draws, image, config)
    image = jnp.clip(camera.grain(draws, key_noise, image, config), 0, 1)
    image = camera.compress(draws, image, config)
    return jnp.clip(camera.enlarge(image, origin, pixels), 0, 1)


def number(key: jax.Array, config: GeneratorConfig = AS_IN_SVHN) -> Number:
    """Draws a number and renders its crop; use ``jax.vmap`` for batches."""
    key_labels, key_image = jax.random.split(key)
    labels = draw_labels(key_labels)
    return Number(draw(key_image, labels, config), labels)


def make(
    split: str,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 256,
    config: GeneratorConfig = AS_IN_SVHN,
) -> Split:
    """Generates a split of a synthetic data set in compiled batches.

    An example depends only on split, seed and its index: a longer split starts with the same
    examples as a shorter one.

    Args:
      split: "train" or "test", which share no keys.
      count: number of examples.
      seed: seed of both splits.
      batch_size: examples rendered at a time; memory grows with it.
      config: strengths.

    Returns:
      Images uint8 ``[count, SIDE, SIDE, 3]`` and labels int32 ``[count, POSITIONS]``, read-only.

    Raises:
      ValueError: split is unknown, or count or batch_size is less than 1.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"count is {count}, batch_size {batch_size}; expected at least 1")
    batches = _batches(_split_key(split, seed), count, batch_size, config)
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    images.flags.writeable = labels.flags.writeable = False
    return Split(images, labels)


def keep(folder: Path) -> Path:
    """Renders the data set ``street_numbers/30k`` and writes it to a folder of the cache.

    Its examples are those of :func:`make` with seed 0. It takes minutes on a CPU; progress is shown
    on stderr.

    Args:
      folder: the data set's folder, see :func:`stn_jax.data.cache.write`.

    Returns, Raises: as :func:`stn_jax.data.cache.write`.
    """

    def drawn(split: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with Progress(f"drawing {KEPT}, {split}", count, "images") as progress:
            size = min(count, 256)
            for images, labels in _batches(_split_key(split, 0), count, size, AS_IN_SVHN):
                yield images, labels
                progress.advance(len(images))

    splits = {split: (count, drawn(split, count)) for split, count in KEPT_SPLITS.items()}
    return cache.write(
        folder, KEPT, VERSION, CLASSES, splits, origin="stn_jax.street_numbers, seed 0"
    )


def source() -> Source:
    """The synthetic data set ``street_numbers``: fixed numbers, drawn afresh whenever shown."""
    splits = {}
    for split, count in SPLITS.items():
        keys = example_keys(_split_key(split, 0), jnp.arange(count))
        labels = np.asarray(jax.jit(jax.vmap(draw_labels))(keys))
        splits[split] = Split(labels.astype(np.uint8), labels)
    return Source(
        NAME,
        VERSION,
        CLASSES,
        splits["train"],
        splits["test"],
        statistics=(MEAN, DEVIATION),
        draw=jax.vmap(draw),
    )


def _split_key(split: str, seed: int) -> jax.Array:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    return jax.random.fold_in(jax.random.key(seed), list(SPLITS).index(split))


def _batches(
    key: jax.Array, count: int, batch_size: int, config: GeneratorConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, count, batch_size):
        batch = _batch(key, start + jnp.arange(batch_size), config)
        images, labels = (np.asarray(x)[: count - start] for x in batch)
        yield images, labels


@jax.jit
def _batch(
    key: jax.Array, indices: jax.Array, config: GeneratorConfig
) -> tuple[jax.Array, jax.Array]:
    numbers = jax.vmap(number, (0, None))(example_keys(key, indices), config)
    return jnp.round(numbers.image * 255).astype(jnp.uint8), numbers.labels


def _frame(
    draws: RandomDraws,
    row: digit_row.Row,
    view: jax.Array,
    labels: jax.Array,
    config: GeneratorConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The crop of the view: its corners (low, high) and its size in pixels, each ``[2]``."""
    boxes, present = digit_row.corners(row)
    boxes = jnp.concatenate([boxes, jnp.ones((POSITIONS, 4, 1))], -1)
    corners = jnp.einsum("ij,pkj->pki", view, boxes, precision=lax.Precision.HIGHEST)
    corners = corners[..., :2] / corners[..., 2:]
    height = jnp.where(present, jnp.ptp(corners[..., 1], axis=1), 0).sum() / present.sum()
    low = jnp.where(present[:, None, None], corners, jnp.inf).min((0, 1))
    high = jnp.where(present[:, None, None], corners, -jnp.inf).max((0, 1))
    # Boxes drawn by annotators tend to be too large rather than too small.
    loose = config.framing * (0.02 + draws.normal(0.035, (2, 2)))
    low, high = low - loose[0], high + loose[1]

    # Grown, within the photograph.
    margin = (GROWTH - 1) / 2 * (high - low)
    top = draws.quantile(svhn_statistics.LEVELS, svhn_statistics.TOP)
    bottom = draws.quantile(svhn_statistics.LEVELS, svhn_statistics.BOTTOM)
    cut = jnp.minimum(config.framing, 1.0) * (1 - jnp.stack([top, bottom]))
    low -= margin * jnp.stack([1.0, 1 - cut[0]])
    high += margin * jnp.stack([1.0, 1 - cut[1]])

    heights = jnp.asarray(svhn_statistics.HEIGHT)[(labels != NONE).sum() - 1]
    pixels = (high - low) * draws.quantile(svhn_statistics.LEVELS, heights) / height
    # A photograph with more pixels than the crop looks no better.
    pixels = SIDE * (jnp.clip(pixels / SIDE, 0, 1)) ** config.resolution
    return low, high, jnp.maximum(pixels, 8.0)


def _textures(key: jax.Array) -> jax.Array:
    """A coarse and a fine texture, ``[SIDE, SIDE, 2]``, normal about 0."""

    noise = jax.random.normal(key, (2, _GRAIN, _GRAIN, 1))
    part = affine.scaling(jnp.array([[0.18, 0.18], [1.0, 1.0]]))
    shape = (SIDE, SIDE)
    coarse, fine = affine_transform(noise, part, shape, mode="bicubic", padding_mode="border")
    return jnp.concatenate([coarse, fine], -1)


def _inverse(view: jax.Array) -> jax.Array:
    """The inverse of a homography that keeps the origin."""
    linear = affine.invert(view[:2])
    vanish = -(view[2, 0] * linear[0] + view[2, 1] * linear[1])
    return jnp.concatenate([linear, vanish[None].at[0, 2].set(1.0)])


def _homography(theta: jax.Array) -> jax.Array:
    """A theta ``[2, 3]`` as ``[3, 3]``."""
    return jnp.concatenate([theta, jnp.array([[0.0, 0.0, 1.0]])])
