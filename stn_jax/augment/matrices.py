"""Augmentation by matrices: affine transforms, homographies, flips."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.augment.targets import Targets, checked, move, sampling_options
from stn_jax.warp import affine, pixel_matrices, validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.products import lead_to, product, stack_rows
from stn_jax.warp.sample import affine_transform, grid_sample
from stn_jax.warp.transforms.projective import Projective

Range = float | tuple[float, float]


def between(name: str, value: Range) -> tuple[float, float]:
    """A range (low, high); a number a stands for (-a, a)."""
    low, high = (-value, value) if isinstance(value, (int, float)) else value
    if not low <= high:
        raise ValueError(f"{name} is {value}; expected (low, high) with low <= high, or a number")
    return low, high


@compiled("key", "targets")
def random_affine(
    key: jax.Array,
    targets: Targets,
    *,
    angle: Range = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: Range = 0.0,
    shift: Range = 0.0,
    num_spatial_dims: int = 2,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    mask_fill: ArrayLike = 0,
    antialias: bool = False,
    deterministic: bool = False,
) -> tuple[Targets, jax.Array]:
    """Rotates, scales, shears and shifts each example about its image's center.

    All parameters are drawn uniformly, the scale log-uniformly. A positive angle rotates the
    content counter-clockwise, and a scale above 1 enlarges it.

    Args:
      key: a random key.
      targets: the examples.
      angle: degrees: a range, or a number a for (-a, a). Volumes are rotated about x, then y, then
        z, each by its own angle.
      scale: a range of factors.
      shear: pixels along x per pixel along y: a range, or a number (images only).
      shift: fraction of the image's size, along each axis: a range, or a number.
      num_spatial_dims: 2 for images, 3 for volumes.
      mode, padding_mode, fill, antialias, deterministic: for the image, as in
        :func:`stn_jax.affine_transform`.
      mask_fill: the mask's value outside with "zeros".

    Returns:
      The augmented targets (for boxes see :func:`apply_theta`), and the thetas ``[..., 2, 3]`` or
      ``[..., 3, 4]``, from normalized output to input positions.

    Raises:
      TypeError: the targets have the wrong types.
      ValueError: the targets' shapes do not match, or a range is invalid.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from stn_jax import augment
      >>> batch = augment.Targets(jnp.ones((8, 32, 32, 3)), keypoints=jnp.full((8, 1, 2), 15.5))
      >>> turned, theta = augment.random_affine(jax.random.key(0), batch, angle=30)
      >>> theta.shape, turned.keypoints.shape
      ((8, 2, 3), (8, 1, 2))
    """
    targets, lead = checked(targets, num_spatial_dims)
    sizes = targets.image.shape[-1 - num_spatial_dims : -1]
    theta = random_theta(key, lead, sizes, angle=angle, scale=scale, shear=shear, shift=shift)
    found = apply_theta(
        targets,
        theta,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        mask_fill=mask_fill,
        antialias=antialias,
        deterministic=deterministic,
    )
    return found, theta


@compiled("key")
def random_theta(
    key: jax.Array,
    lead: Sequence[int],
    sizes: Sequence[int],
    *,
    angle: Range = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: Range = 0.0,
    shift: Range = 0.0,
) -> jax.Array:
    """Draws the thetas of :func:`random_affine`, ``[*lead, 2, 3]`` (``[*lead, 3, 4]``).

    Args:
      key, angle, scale, shear, shift: as in :func:`random_affine`.
      lead: leading axes.
      sizes: the images' spatial shape: (H, W) or (D, H, W).

    Raises:
      ValueError: a range is invalid.
    """
    dims = len(sizes)
    keys = jax.random.split(key, 4)
    angles = jax.random.uniform(
        keys[0], (*lead, 2 * dims - 3), jnp.float32, *between("angle", angle)
    )
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"scale is {scale}; expected (low, high) with 0 < low <= high")
    growth = jnp.exp(
        jax.random.uniform(keys[1], lead, jnp.float32, *jnp.log(jnp.array([low, high])))
    )
    moved = 2 * jax.random.uniform(keys[2], (*lead, dims), jnp.float32, *between("shift", shift))
    slant = jax.random.uniform(keys[3], lead, jnp.float32, *between("shear", shear))
    if dims == 2:
        return affine.from_parameters(
            angles[..., 0],
            jnp.stack([1 / growth] * 2, -1),
            slant,
            -moved,
            aspect=sizes[1] / max(sizes[0], 1),
        )
    if between("shear", shear) != (0, 0):
        raise ValueError(f"shear is {shear}; expected 0 for volumes, which cannot be sheared")
    linear = _rotation_3d(angles) / growth[..., None, None]
    # In pixels of equal sides, so that rotations do not shear.
    extent = jnp.array(sizes[::-1], jnp.float32)
    linear = linear * lead_to(extent[None, :] / extent[:, None], linear.ndim)
    return jnp.concatenate([linear, -moved[..., None]], -1)


def _rotation_3d(angles: jax.Array) -> jax.Array:
    """Rotations about x, then y, then z, of angles ``[..., 3]`` in degrees: ``[..., 3, 3]``."""
    radians = jnp.deg2rad(angles)
    zero, one = jnp.zeros_like(radians[..., 0]), jnp.ones_like(radians[..., 0])
    turns = []
    for axis in range(3):
        cos, sin = jnp.cos(radians[..., axis]), jnp.sin(radians[..., axis])
        a, b = [k for k in range(3) if k != axis]
        rows = [[one if i == j else zero for j in range(3)] for i in range(3)]
        rows[a][a], rows[a][b], rows[b][a], rows[b][b] = cos, -sin, sin, cos
        turns.append(stack_rows(rows))
    return product(turns[2], product(turns[1], turns[0]))


@compiled("key", "targets")
def random_perspective(
    key: jax.Array,
    targets: Targets,
    *,
    distortion: float = 0.5,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    mask_fill: ArrayLike = 0,
    deterministic: bool = False,
) -> tuple[Targets, jax.Array]:
    """Applies a random perspective to each image: its four corners move inwards.

    Args:
      key: a random key.
      targets: the examples, images only.
      distortion: the largest displacement of a corner, along x and y, as a fraction of half the
        image's size; from 0 to less than 1, as in torchvision's ``RandomPerspective``.
      mode, padding_mode, fill, mask_fill, deterministic: as in :func:`random_affine`.

    Returns:
      The augmented targets, and the homographies ``[..., 3, 3]``, from normalized output to input
      positions. Keypoints may lie outside the image.

    Raises:
      TypeError: the targets have the wrong types.
      ValueError: the targets' shapes do not match, or distortion is out of range.
    """
    targets, lead = checked(targets, 2)
    if not 0 <= distortion < 1:
        raise ValueError(f"distortion is {distortion}; expected a number from 0 to less than 1")
    inwards = distortion * jax.random.uniform(key, (*lead, 4, 2))
    corners = jnp.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    matrix = _homography_of_corners(lead_to(corners, inwards.ndim) * (1 - inwards))
    theta = _adjugate(matrix)
    theta = theta / theta[..., 2:, 2:]
    found = apply_theta(
        targets,
        theta,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        mask_fill=mask_fill,
        deterministic=deterministic,
    )
    return found, theta


def _homography_of_corners(corners: jax.Array) -> jax.Array:
    """The homographies that map the corners of [-1, 1]^2 to ``[..., 4, 2]``.

    The corners are in the order (-1, -1), (1, -1), (1, 1), (-1, 1).

    References:
      Heckbert, "Fundamentals of texture mapping and image warping", 1989, Section 2.2.3.
    """
    (x0, x1, x2, x3), (y0, y1, y2, y3) = ([corners[..., i, k] for i in range(4)] for k in range(2))
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / det, (dx1 * sy - sx * dy1) / det
    one = jnp.ones_like(g)
    from_unit = stack_rows(
        [
            [x1 - x0 + g * x1, x3 - x0 + h * x3, x0],
            [y1 - y0 + g * y1, y3 - y0 + h * y3, y0],
            [g, h, one],
        ]
    )
    return product(from_unit, jnp.array([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]]))


def _adjugate(matrix: jax.Array) -> jax.Array:
    rows = [matrix[..., i, :] for i in range(3)]
    return jnp.stack([jnp.cross(rows[i - 2], rows[i - 1]) for i in range(3)], -1)


@compiled("key", "targets")
def random_flip(
    key: jax.Array,
    targets: Targets,
    *,
    axis: str = "x",
    probability: float = 0.5,
    num_spatial_dims: int = 2,
) -> tuple[Targets, jax.Array]:
    """Flips some of the examples, without interpolation.

    Args:
      key: a random key.
      targets: the examples.
      axis: the axis to reverse: "x" (left and right), "y" (up and down) or "z" (volumes).
      probability: the probability of flipping an example.
      num_spatial_dims: 2 for images, 3 for volumes.

    Returns:
      The targets, and bools ``[...]``: which examples are flipped.

    Raises:
      TypeError: the targets have the wrong types.
      ValueError: the targets' shapes do not match, or the axis is unknown.
    """
    targets, lead = checked(targets, num_spatial_dims)
    dims = num_spatial_dims
    k = "xyz".index(validation.known("axis", axis, "xyz"[:dims]))
    size = targets.image.shape[-2 - k]
    flipped = jax.random.bernoulli(key, probability, lead)

    def either(mirrored: jax.Array, plain: jax.Array) -> jax.Array:
        chosen = jnp.expand_dims(flipped, tuple(range(len(lead), plain.ndim)))
        return jnp.where(chosen, mirrored, plain)

    image, mask, boxes, keypoints = targets
    image = either(jnp.flip(image, -2 - k), image)
    if mask is not None:
        mask = either(jnp.flip(mask, -1 - k), mask)
    if boxes is not None:
        low, high = size - boxes[..., dims + k], size - boxes[..., k]
        boxes = either(boxes.at[..., k].set(low).at[..., dims + k].set(high), boxes)
    if keypoints is not None:
        keypoints = either(keypoints.at[..., k].set(size - 1 - keypoints[..., k]), keypoints)
    return Targets(image, mask, boxes, keypoints), flipped


@compiled("targets", "theta")
def apply_theta(
    targets: Targets,
    theta: ArrayLike,
    shape: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    mask_fill: ArrayLike = 0,
    antialias: bool = False,
    deterministic: bool = False,
) -> Targets:
    """Warps targets by given thetas: images with their masks, boxes and keypoints.

    Args:
      targets: the examples.
      theta: ``[..., 2, 3]``, ``[..., 3, 4]`` (volumes) or ``[..., 3, 3]`` (homographies), from
        normalized output to input positions (``align_corners=False``), one for each example.
      shape: the result's spatial shape; None: the image's.
      mode, padding_mode, fill, antialias, deterministic: for the image, as in
        :func:`stn_jax.affine_transform`; homographies are not antialiased.
      mask_fill: the mask's value outside with "zeros".

    Returns:
      The warped targets. A box becomes the bounding box of its corners' new positions, clipped to
      the image; its area is 0 if it lies outside. Keypoints may lie outside.

    Raises:
      TypeError: the targets or thetas have the wrong types.
      ValueError: their shapes do not match.
    """
    theta = validation.wide_floating("theta", theta, (*validation.MATRICES, (3, 3)))
    dims = 3 if theta.shape[-1] == 4 else 2
    targets, _ = checked(targets, dims)
    sizes = targets.image.shape[-1 - dims : -1]
    shape = validation.spatial_shape(sizes if shape is None else shape, dims)
    homography = theta.shape[-2:] == (3, 3)
    matrix = pixel_matrices.theta_to_pixel_matrix(theta, sizes, shape)

    def sample(image: jax.Array, nearest: bool) -> jax.Array:
        options: dict[str, Any] = sampling_options(nearest, mode, padding_mode, fill, deterministic)
        if homography:
            return grid_sample(image, Projective().grid_of(theta, shape), **options)
        return affine_transform(image, theta, shape, antialias=antialias and not nearest, **options)

    def forward(points: jax.Array) -> jax.Array:
        found = product(points, jnp.swapaxes(matrix[..., :dims], -1, -2))
        found = found + jnp.expand_dims(matrix[..., dims], -2)
        return found[..., :2] / found[..., 2:] if homography else found

    return move(targets, shape, sample, forward, mask_fill=mask_fill)
