"""Augmentation on the device: images with their masks, boxes and keypoints, warped together.

Each function takes a key and :class:`Targets`, and gives the augmented targets and what was drawn
for each example. All are pure functions of arrays: they run under ``jax.jit``, ``jax.vmap`` and on
several devices, and are chained with a key each. Needs jax and nothing else.
"""

from stn_jax.augment.crops import random_crop, random_resized_crop
from stn_jax.augment.elastic import apply_displacement, random_elastic, random_thin_plate
from stn_jax.augment.matrices import apply_theta, random_affine, random_flip, random_perspective
from stn_jax.augment.targets import Targets

__all__ = [
    "Targets",
    "apply_displacement",
    "apply_theta",
    "random_affine",
    "random_crop",
    "random_elastic",
    "random_flip",
    "random_perspective",
    "random_resized_crop",
    "random_thin_plate",
]
