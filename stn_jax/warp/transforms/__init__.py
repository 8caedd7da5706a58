"""Families of transforms: from a vector of parameters to a sampling grid.

A family is the set of transforms that a spatial transformer may apply (Jaderberg et al. 2015,
Section 3.2). It holds no parameters itself; parameters ``[..., size]`` come from a network or from
the user. In every family, parameters of 0 are exactly the identity.

=========== ======================== ============================================== ==========
name        class                    parameters                                     theta
=========== ======================== ============================================== ==========
rotation    :class:`Rotation`        angle in radians                               2x3
translation :class:`Translation`     shift x, y                                     2x3
attention   :class:`Attention`       log of the scale, shift x, y                   2x3
similarity  :class:`Similarity`      angle in radians, log of the scale, shift x, y 2x3
affine      :class:`Affine`          theta minus the identity, row by row           2x3 or 3x4
projective  :class:`Projective`      theta minus the identity, without last entry   3x3
tps         :class:`ThinPlateSpline` displacements (x, y) of control points by row  KxKx2
=========== ======================== ============================================== ==========

Theta is the transform that the parameters describe: a matrix, or the positions of the control
points. Thetas can be composed, inspected, and turned into a grid of any resolution
(:meth:`Transform.grid_of`).

Convention
    As in :mod:`stn_jax.warp.affine` and :mod:`stn_jax.warp.grid`: *output* to *input* positions,
    normalized (x, y) with y downwards. Parameters, thetas and grids are float32 (half precision
    is too coarse), or float64 if the parameters are.

Examples:
  >>> import jax.numpy as jnp
  >>> from stn_jax import grid_sample
  >>> from stn_jax.warp import transforms
  >>> image = jnp.arange(4.0).reshape(2, 2, 1)
  >>> half_turn = transforms.Rotation().grid(jnp.array([jnp.pi]), (2, 2))
  >>> grid_sample(image, half_turn)[..., 0].round().tolist()
  [[3.0, 2.0], [1.0, 0.0]]
"""

from stn_jax.warp.transforms.affine_families import (
    Affine,
    Attention,
    Rotation,
    Similarity,
    Translation,
)
from stn_jax.warp.transforms.base import Transform
from stn_jax.warp.transforms.projective import Projective
from stn_jax.warp.transforms.thin_plate import ThinPlateSpline

__all__ = [
    "FAMILIES",
    "Affine",
    "Attention",
    "Projective",
    "Rotation",
    "Similarity",
    "ThinPlateSpline",
    "Transform",
    "Translation",
    "of_aspect",
    "resolve",
]

FAMILIES: dict[str, type[Transform]] = {
    "rotation": Rotation,
    "translation": Translation,
    "attention": Attention,
    "similarity": Similarity,
    "affine": Affine,
    "projective": Projective,
    "tps": ThinPlateSpline,
}


def of_aspect(transform: Transform | str, aspect: float) -> Transform | str:
    """A family for oblong images: "rotation" and "similarity" with an aspect, others unchanged.

    Args:
      transform: as of :func:`resolve`.
      aspect: width / height of the images, see :mod:`stn_jax.warp.affine`.
    """
    family = FAMILIES.get(transform) if isinstance(transform, str) else None
    if aspect == 1 or family not in (Rotation, Similarity):
        return transform
    return family(aspect=aspect)


def resolve(transform: Transform | str, num_spatial_dims: int = 2) -> Transform:
    """The family of a name, or the given family, for images (2 dimensions) or volumes (3).

    Args:
      transform: a name of ``FAMILIES``, or a :class:`Transform`.
      num_spatial_dims: 2 for images, 3 for volumes.

    Raises:
      TypeError: transform is neither a name nor a :class:`Transform`.
      ValueError: the name is unknown, or the family has another number of dimensions.

    Examples:
      >>> from stn_jax.warp import transforms
      >>> transforms.resolve("tps")
      ThinPlateSpline(points=4, smoothing=0.0)
    """
    if isinstance(transform, str):
        if transform not in FAMILIES:
            raise ValueError(f"transform is {transform!r}; expected one of {', '.join(FAMILIES)}")
        family = FAMILIES[transform]
        found: Transform = Affine(num_spatial_dims) if family is Affine else family()
    elif isinstance(transform, Transform):
        found = transform
    else:
        raise TypeError(
            f"transform is {transform!r}; expected a Transform or one of {', '.join(FAMILIES)}"
        )
    if found.num_spatial_dims != num_spatial_dims:
        kinds = {2: "images", 3: "volumes"}
        raise ValueError(
            f"transform is {transform!r}, which is for {kinds[found.num_spatial_dims]}; for "
            f"{kinds[num_spatial_dims]} use 'affine'"
        )
    return found
