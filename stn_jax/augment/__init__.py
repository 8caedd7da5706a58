"""Augmentation on the device: images are warped together with masks, boxes and keypoints.

Each function takes a key and :class:`Targets`, and returns the augmented targets and the random
parameters of each example. All are pure functions of arrays: they run under ``jax.jit`` and
``jax.vmap`` and on several devices. Use a separate key for each. Needs only jax.
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
