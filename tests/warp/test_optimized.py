"""What only XLA's optimizations could break: they are off in the other tests, and on here."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax
import numpy as np
from stn_jax import affine_grid, affine_transform, grid_sample
from stn_jax.warp import affine

images = np.random.default_rng(0).normal(size=(2, 62, 62, 12)).astype(np.float32)
window = np.float32([[62 / 64, 0, 0], [0, 62 / 64, 0]])

def theta_of(turn, window):
    return affine.invert(affine.compose(affine.invert(window), turn, window))

def warped(images, turn, window, channels):
    out = affine_transform(images[..., :channels], theta_of(turn, window))
    return out[..., :2], out[..., 2:]

def by_grid(images, turn, window, channels):
    grid = affine_grid(theta_of(turn, window), images.shape[1:3])
    out = grid_sample(images[..., :channels], grid, mode="bilinear")
    return out[..., :2], out[..., 2:]

# Half and quarter turns put every sample on a pixel, up to rounding.
for quarters in (1, 2, 3):
    turn = np.asarray(affine.rotation(90.0 * quarters))
    for function in (warped, by_grid):
        for channels in (3, 4, 12):
            found = jax.jit(function, static_argnums=3)(images, turn, window, channels)
            expected = np.rot90(images[..., :channels], -quarters, (1, 2))
            error = np.abs(np.concatenate(found, -1) - expected)
            assert error.max() < 1e-3, (quarters, function.__name__, channels)
"""


FENCES = """
import itertools
import jax
import numpy as np
from stn_jax import grid_sample
from stn_jax.warp.primitives import force_implementation

for rank, modes in ((2, ("nearest", "bilinear", "bicubic")), (3, ("nearest", "bilinear"))):
    image, grid = np.ones((4, 5, 3)[:rank] + (2,)), np.zeros((2, 3, 2)[:rank] + (rank,))
    for mode, padding_mode in itertools.product(modes, ("zeros", "border", "reflection")):
        warp = jax.jit(lambda *args: grid_sample(*args, mode=mode, padding_mode=padding_mode))
        with force_implementation("xla"):
            text = warp.lower(image.astype("f"), grid.astype("f")).compile().as_text()
        # One for each axis.
        assert text.count(" conditional(") == rank, (mode, padding_mode, text)
"""


@pytest.mark.slow
def test_the_fence_that_positions_stand_behind_outlives_the_compiler():
    """A compiler that sees through its condition would round positions twice, here and there."""
    run_optimized(FENCES)


def run_optimized(program: str, **environment: str) -> None:
    usual = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=usual | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.thin("1")
@pytest.mark.parametrize("native", ["0", "1"])
def test_positions_round_the_same_way_in_all_their_uses(native):
    """An index and its weight from a position rounded once each are a whole pixel off."""
    run_optimized(PROGRAM, STN_JAX_NATIVE=native)
