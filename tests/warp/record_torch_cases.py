"""Records what PyTorch makes of some warps, so that the tests can compare without PyTorch.

Run as ``python tests/warp/record_torch_cases.py``; it writes ``tests/data/torch_warp_cases.npz``.
The tests also use its functions for live comparisons where PyTorch is installed.

A sample has kinks: at half pixels in mode "nearest", at whole pixels in the slope of mode
"bilinear". On which side of a kink a position falls is decided by rounding, and no two programs
round alike. The random cases therefore keep every position ``MARGIN`` away from whole and half
pixels. The "exact" cases do the opposite: their sizes and thetas are such that float32 computes
every position without rounding, and they sit right on the kinks.
"""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

FILE = pathlib.Path(__file__).resolve().parents[1] / "data" / "torch_warp_cases.npz"
PADDING_MODES = ("zeros", "border", "reflection")
MODES = {2: ("nearest", "bilinear", "bicubic"), 3: ("nearest", "bilinear")}
MARGIN = 1e-3  # pixels; float32 moves the positions in these cases by less than 1e-5


class Geometry(NamedTuple):
    """A group of cases that share their shapes: one for each mode, padding and corner rule."""

    image_shape: tuple[int, ...]
    grid_shape: tuple[int, ...]
    corner_rules: tuple[bool, ...] = (False, True)
    kind: str = "affine"  # or "grid", without a theta; with "exact " in front: on the kinks

    @property
    def rank(self):
        return len(self.image_shape)


# Few shapes of the output, since every new one is compiled anew.
GEOMETRIES = {
    "image": Geometry((5, 7), (4, 2)),
    "exact edges": Geometry((4, 2), (4, 2), (False,), "exact affine"),
    "exact corners": Geometry((5, 9), (4, 2), (True,), "exact grid"),
    "single row": Geometry((1, 6), (4, 2), kind="grid"),
    "volume": Geometry((3, 5, 6), (2, 4, 2)),
    "exact volume edges": Geometry((2, 4, 2), (2, 4, 2), (False,), "exact affine"),
    "exact volume corners": Geometry((3, 2, 5), (2, 4, 2), (True,), "exact grid"),
    "single slice": Geometry((1, 5, 6), (2, 4, 2), kind="grid"),
}
BATCH = 8


def settings(geometry):
    """Every (mode, padding mode, corner rule) of a geometry, in the order of recording."""
    return list(itertools.product(MODES[geometry.rank], PADDING_MODES, geometry.corner_rules))


def draw(rng, geometry, channels=2):
    """Draws an image and what is sampled from it, all exact in float32."""
    image = rng.uniform(-1, 1, (BATCH, *geometry.image_shape, channels))
    cotangent = rng.uniform(-1, 1, (BATCH, *geometry.grid_shape, channels))
    arrays = {"image": image, "cotangent": cotangent}
    if geometry.kind == "grid":
        arrays["grid"] = _draw_grid(rng, geometry)
    elif geometry.kind == "exact grid":
        arrays["grid"] = _exact_grid(rng, geometry)
    elif geometry.kind == "exact affine":
        arrays["theta"] = _exact_thetas(geometry)
    else:
        arrays["theta"] = np.stack([_draw_theta(rng, geometry, i) for i in range(BATCH)])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _draw_theta(rng, geometry, index):
    """A rotation, a reduction, a position far outside, or anything, in turn."""
    rank = geometry.rank
    while True:
        linear = _rotation(rng, rank)
        shift = rng.uniform(-0.2, 0.2, rank)
        recipe = index % 4
        if recipe == 1:
            linear = linear @ np.diag(rng.uniform(2, 3, rank) * rng.choice([-1, 1], rank))
        elif recipe == 2:
            shift = rng.uniform(4, 5, rank) * rng.choice([-1, 1], rank)
        elif recipe == 3:
            linear = rng.normal(size=(rank, rank))
        theta = np.float32(np.concatenate([linear, shift[:, None]], axis=1)).astype(np.float64)
        grids = [_affine_grid(theta, geometry.grid_shape, corners) for corners in (False, True)]
        if all(_off_kinks(g, geometry.image_shape, c) for g, c in zip(grids, (0, 1), strict=True)):
            return theta


def _rotation(rng, rank):
    q, r = np.linalg.qr(rng.normal(size=(rank, rank)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    return q


def _draw_grid(rng, geometry):
    shape = (BATCH, *geometry.grid_shape)
    grid = np.full((*shape, geometry.rank), np.nan)
    for place in np.ndindex(*shape):
        while True:
            position = np.float32(rng.uniform(-2.2, 2.2, geometry.rank)).astype(np.float64)
            if all(_off_kinks(position, geometry.image_shape, corners) for corners in (0, 1)):
                grid[place] = position
                break
    return grid


def _exact_thetas(geometry):
    """Thetas that move pixels onto pixels or halfway between: the identity and others."""
    rank, (align_corners,) = geometry.rank, geometry.corner_rules
    identity = np.eye(rank, rank + 1)
    pixel = np.array([2 / (size - align_corners) for size in reversed(geometry.image_shape)])

    def shifted(pixels):
        return np.concatenate([identity[:, :rank], (pixels * pixel)[:, None]], axis=1)

    signs = (-1.0) ** np.arange(rank)
    mirror = np.diag([-1, *[1] * (rank - 1)]) @ identity
    thetas = [identity, mirror, -identity, 0.5 * identity, 2 * identity]
    thetas += [shifted(1), shifted(-2 * signs), shifted(0.5 * signs)]
    return np.stack(thetas)


def _exact_grid(rng, geometry):
    """Whole and half pixels, up to two outside."""
    (align_corners,) = geometry.corner_rules
    sizes = np.array(geometry.image_shape[::-1])
    place = rng.integers(-4, 2 * sizes + 3, (BATCH, *geometry.grid_shape, geometry.rank)) / 2
    return (2 * place + (not align_corners)) / (sizes - align_corners) - 1


def _affine_grid(theta, shape, align_corners):
    axes = []
    for size in shape:
        index = np.arange(size)
        if align_corners:
            axes.append(2 * index / (size - 1) - 1 if size > 1 else np.zeros(1))
        else:
            axes.append((2 * index + 1) / size - 1)
    base = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(shape)], axis=-1)
    return base @ theta.T


def _off_kinks(grid, image_shape, align_corners):
    for axis, size in enumerate(reversed(image_shape)):
        if align_corners and size == 1:
            continue  # every position is 0, whatever the rounding
        x = ((grid[..., axis] + 1) * (size - align_corners) - (not align_corners)) / 2
        if np.any(np.abs(2 * x - np.round(2 * x)) < 2 * MARGIN):
            return False
    return True


def torch_warp(arrays, setting, dtype="float64"):
    """What PyTorch gives: the output, and the gradients of its product with the cotangent.

    ``theta_terms`` bounds the size of the terms that the gradient to theta is a sum of:
    the sum over the grid of the gradient's absolute value, for each row of theta.
    """
    import torch
    from torch.nn import functional

    mode, padding_mode, align_corners = setting
    kind = getattr(torch, dtype)
    channels_first = torch.movedim(torch.tensor(arrays["image"], dtype=kind), -1, 1)
    image = channels_first.contiguous().requires_grad_()
    cotangent = torch.movedim(torch.tensor(arrays["cotangent"], dtype=kind), -1, 1)
    if "theta" in arrays:
        theta = torch.tensor(arrays["theta"], dtype=kind, requires_grad=True)
        size = (image.shape[0], 1, *cotangent.shape[2:])
        grid = functional.affine_grid(theta, size, align_corners=align_corners)
        grid.retain_grad()
    else:
        theta = None
        grid = torch.tensor(arrays["grid"], dtype=kind, requires_grad=True)
    output = functional.grid_sample(
        image, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners
    )
    output.backward(cotangent)
    found = {"output": output.detach(), "d_image": image.grad}
    found = {name: torch.movedim(array, 1, -1).numpy() for name, array in found.items()}
    if theta is None:
        return {**found, "d_grid": grid.grad.numpy()}
    terms = np.abs(grid.grad.numpy()).sum(axis=tuple(range(1, grid.ndim - 1)))
    return {**found, "d_theta": theta.grad.numpy(), "theta_terms": terms[..., None]}


def record():
    """All cases as a flat dict: inputs once a geometry, the rest stacked over its settings."""
    rng = np.random.default_rng(2015)
    cases = {}
    for name, geometry in GEOMETRIES.items():
        arrays = draw(rng, geometry)
        found = [torch_warp(arrays, setting) for setting in settings(geometry)]
        for key, array in arrays.items():
            cases[f"{name}/{key}"] = array
        for key in found[0]:
            cases[f"{name}/{key}"] = np.stack([f[key] for f in found]).astype(np.float32)
    return cases


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **record())
