"""What the tests of grid_sample share: settings, shapes, images, positions."""

import itertools

import jax
import numpy as np

from stn_jax.warp import affine_transform, grid_sample

PADDING_MODES = ("zeros", "border", "reflection")
SETTINGS = list(itertools.product(("nearest", "bilinear", "bicubic"), PADDING_MODES, (False, True)))
KERNELS = [(2, "nearest"), (2, "bilinear"), (2, "bicubic"), (3, "nearest"), (3, "bilinear")]

# Every operation is compiled for every shape, which is where the time of these tests goes. So most
# of them sample at grids of one shape (test_torch.py too), and those that need another are jitted:
# one program compiles faster than its operations one by one.
BATCH = 8
OUTPUT = {2: (4, 2), 3: (2, 4, 2)}
STATIC = ("mode", "padding_mode", "align_corners")
jitted_sample = jax.jit(grid_sample, static_argnames=STATIC)
jitted_transform = jax.jit(affine_transform, static_argnames=("shape", *STATIC))

# Sizes for which float32 computes pixel positions without rounding: powers of two, and these and
# one for align_corners=True.
EXACT_SHAPE = {(2, False): (4, 8), (2, True): (5, 9), (3, False): (2, 4, 8), (3, True): (3, 2, 5)}


def random_image(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def options(setting):
    return dict(zip(("mode", "padding_mode", "align_corners"), setting, strict=True))


def pixels_to_normalized(position, shape, align_corners=False):
    """(x, y[, z]) in pixels to what grid_sample takes; exact for the sizes above."""
    sizes = np.array(shape[::-1])
    position = np.asarray(position, np.float64)
    return 2 * position / (sizes - 1) - 1 if align_corners else (2 * position + 1) / sizes - 1
