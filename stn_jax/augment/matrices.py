"""Augmentation by matrices: affine transforms, homographies, flips."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.augment.targets import Targets, checked, move, sampling_options
from stn_jax.warp import affine, pixel_matrices, validation
from stn_jax.warp.products import lead_to, product, stack_rows
from stn_jax.warp.sample import affine_transform, grid_sample
from stn_jax.warp.transforms.projective import Projective

Range = float | tuple[float, float]


def between(name: str, value: Range) -> tuple[float, float]:
    """A range: a pair as it is, a number a as (-a, a)."""
    low, high = (-value, value) if isinstance(value, (int, float)) else value
    if not low <= high:
        raise ValueError(f"{name} is {value}; expected (low, high) with low <= high, or a number")
    return low, high


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
) -> tuple[Targets, jax.Array]:
    """Turns, resizes, shears and moves each example about its image's center.

    All is drawn uniformly, the scale on a logarithmic axis. The picture turns counter-clockwise by
    a positive angle and grows by a scale above 1.

    Args:
      key: of the random draws; the same key gives the same result.
      targets: a :class:`Targets`.
      angle: degrees, a range or a number a for (-a, a). In volumes about each axis in turn.
      scale: a range of factors.
      shear: pixels along x for each along y, a range or a number (images only).
      shift: part of the image's size, along each axis, a range or a number.
      num_spatial_dims: 2 for images, 3 for volumes.
      mode, padding_mode, fill, antialias: for the image, as in :func:`stn_jax.affine_transform`.
      mask_fill: what a mask holds outside with "zeros".

    Returns:
      The augmented targets, boxes as :func:`apply_theta` has them, and each example's theta
      ``[..., 2, 3]`` (``[..., 3, 4]``), from output to input.

    Raises:
      TypeError, ValueError: targets or ranges do not fit.

    Example:
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
    )
    return found, theta


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
    """The thetas that :func:`random_affine` draws, ``[*lead, 2, 3]`` (``[*lead, 3, 4]``).

    Args:
      key, angle, scale, shear, shift: as there.
      lead: leading axes.
      sizes: the images' spatial shape: (H, W) or (D, H, W).

    Raises:
      ValueError: a range does not fit.
    """
    rank = len(sizes)
    keys = jax.random.split(key, 4)
    angles = jax.random.uniform(
        keys[0], (*lead, 2 * rank - 3), jnp.float32, *between("angle", angle)
    )
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"scale is {scale}; expected (low, high) with 0 < low <= high")
    growth = jnp.exp(
        jax.random.uniform(keys[1], lead, jnp.float32, *jnp.log(jnp.array([low, high])))
    )
    moved = 2 * jax.random.uniform(keys[2], (*lead, rank), jnp.float32, *between("shift", shift))
    slant = jax.random.uniform(keys[3], lead, jnp.float32, *between("shear", shear))
    if rank == 2:
        return affine.from_parameters(
            angles[..., 0],
            jnp.stack([1 / growth] * 2, -1),
            slant,
            -moved,
            aspect=sizes[1] / max(sizes[0], 1),
        )
    if between("shear", shear) != (0, 0):
        raise ValueError(f"shear is {shear}; volumes are not sheared")
    linear = _rotation_3d(angles) / growth[..., None, None]
    # In pixels that are as wide as high and deep, so that turning does not shear.
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


def random_perspective(
    key: jax.Array,
    targets: Targets,
    *,
    distortion: float = 0.5,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    mask_fill: ArrayLike = 0,
) -> tuple[Targets, jax.Array]:
    """Views each image as a plane from another side: its four corners move inwards.

    Args:
      key: of the random draws.
      targets: a :class:`Targets` of images.
      distortion: each corner comes inwards by up to this part of half the image, along x and along
        y; from 0 to less than 1, as torchvision's ``RandomPerspective``.
      mode, padding_mode, fill, mask_fill: as in :func:`random_affine`.

    Returns:
      The augmented targets, and each example's homography ``[..., 3, 3]``, from normalized output
      to input positions. What leaves the image has keypoints outside of it.

    Raises:
      TypeError, ValueError: targets do not fit, or distortion is not within its range.
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
        targets, theta, mode=mode, padding_mode=padding_mode, fill=fill, mask_fill=mask_fill
    )
    return found, theta


def _homography_of_corners(corners: jax.Array) -> jax.Array:
    """Takes the corners of [-1, 1]^2 to ``[..., 4, 2]`` (in a circle from (-1, -1)).

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


def random_flip(
    key: jax.Array,
    targets: Targets,
    *,
    axis: str = "x",
    probability: float = 0.5,
    num_spatial_dims: int = 2,
) -> tuple[Targets, jax.Array]:
    """Mirrors some of the examples, exactly.

    Args:
      key: of the random draws.
      targets: a :class:`Targets`.
      axis: the one that turns round: "x" (left and right), "y" (up and down), "z" (volumes).
      probability: of each example.
      num_spatial_dims: 2 for images, 3 for volumes.

    Returns:
      The targets, and which examples are mirrored, ``[...]``, bool.

    Raises:
      TypeError, ValueError: targets do not fit, or there is no such axis.
    """
    targets, lead = checked(targets, num_spatial_dims)
    rank = num_spatial_dims
    k = "xyz".index(validation.known("axis", axis, "xyz"[:rank]))
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
        low, high = size - boxes[..., rank + k], size - boxes[..., k]
        boxes = either(boxes.at[..., k].set(low).at[..., rank + k].set(high), boxes)
    if keypoints is not None:
        keypoints = either(keypoints.at[..., k].set(size - 1 - keypoints[..., k]), keypoints)
    return Targets(image, mask, boxes, keypoints), flipped


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
) -> Targets:
    """Warps targets by thetas of one's own: an image with its mask, boxes and keypoints.

    Args:
      targets: a :class:`Targets`.
      theta: ``[..., 2, 3]``, ``[..., 3, 4]`` (volumes) or ``[..., 3, 3]`` (homographies), from
        normalized output to input positions (corners not aligned), one for each example.
      shape: the result's spatial shape; the image's where None.
      mode, padding_mode, fill, antialias: for the image; homographies are not antialiased.
      mask_fill: what a mask holds outside with "zeros".

    Returns:
      The warped targets. A box is the one around its corners' new positions, cut at the image's
      edges: of area 0 where it has left the image. Keypoints may lie outside.

    Raises:
      TypeError, ValueError: something does not fit.
    """
    theta = validation.wide_floating("theta", theta, (*validation.MATRICES, (3, 3)))
    rank = 3 if theta.shape[-1] == 4 else 2
    targets, _ = checked(targets, rank)
    sizes = targets.image.shape[-1 - rank : -1]
    shape = validation.spatial_shape(sizes if shape is None else shape, rank)
    homography = theta.shape[-2:] == (3, 3)
    matrix = pixel_matrices.theta_to_pixel_matrix(theta, sizes, shape)

    def sample(image: jax.Array, nearest: bool) -> jax.Array:
        options: dict[str, Any] = sampling_options(nearest, mode, padding_mode, fill)
        if homography:
            return grid_sample(image, Projective().grid_of(theta, shape), **options)
        return affine_transform(image, theta, shape, antialias=antialias and not nearest, **options)

    def forward(points: jax.Array) -> jax.Array:
        found = product(points, jnp.swapaxes(matrix[..., :rank], -1, -2))
        found = found + jnp.expand_dims(matrix[..., rank], -2)
        return found[..., :2] / found[..., 2:] if homography else found

    return move(targets, shape, sample, forward, mask_fill=mask_fill)
