"""Convolution in forms that are fast on CPU, and the primitive that chooses by platform."""

from stn_jax.models.cpu.primitive import convolution, force_implementation

__all__ = ["convolution", "force_implementation"]
