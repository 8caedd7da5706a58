"""Trained weights that come with the package: :func:`load_pretrained`."""

from stn_jax.pretrained.loader import available, describe, load_pretrained, save
from stn_jax.pretrained.weights import PretrainedError, stored

__all__ = [
    "PretrainedError",
    "available",
    "describe",
    "load_pretrained",
    "save",
    "stored",
]
