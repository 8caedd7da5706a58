"""Convolution and pooling, fast on CPU: primitives whose implementation depends on the platform."""

from stn_jax.models.cpu.pooling import max_pool
from stn_jax.models.cpu.primitive import convolution, force_implementation

__all__ = ["convolution", "force_implementation", "max_pool"]
