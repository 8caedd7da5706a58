"""A user's own pictures, from image files to what a network for MNIST or SVHN sees."""

from stn_jax.data.photographs.image_files import read_picture
from stn_jax.data.photographs.readings import Reading, find_digit, read_digit, read_number

__all__ = ["Reading", "find_digit", "read_digit", "read_number", "read_picture"]
