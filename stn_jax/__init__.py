"""Spatial transformer networks in JAX and Flax."""
