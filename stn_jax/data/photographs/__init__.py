"""The user's own photographs, from files to inputs of networks for MNIST or SVHN."""

from stn_jax.data.photographs.image_files import read_picture
from stn_jax.data.photographs.readings import (
    Reading,
    find_digit,
    read_digit,
    read_number,
    read_whole,
)

__all__ = ["Reading", "find_digit", "read_digit", "read_number", "read_picture", "read_whole"]
