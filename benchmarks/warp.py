"""Time, error and memory of warps and their gradients, against PyTorch, jax.scipy and dm_pix.

    python -m benchmarks.warp [--rounds=30] [--budget=0.5] [--only=TEXT]

All sides get the same images, thetas and cotangents in float32, with zeros outside and
``align_corners=False``, and images in their own layout (channels first for PyTorch). Errors are the
largest differences from PyTorch in float64 on the same numbers: absolute for outputs (images are of
order 1), relative to the largest element for gradients.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Report, compare, flags, optional_torch
from stn_jax.warp import affine, affine_grid, affine_transform, grid_sample, normalized_to_pixel


class Case(NamedTuple):
    """A warp by thetas or, if a sampler is given, by a grid.

    Attributes:
      image: shape of the image, ``[B, H, W, C]`` or ``[B, D, H, W, C]``.
      out: spatial shape of the output.
      sampler: None (thetas: rotations and scalings), "flow" (a grid of displacements by a few
        pixels) or "points" (a grid of random positions).
    """

    image: tuple[int, ...]
    out: tuple[int, ...]
    sampler: str | None = None

    @property
    def name(self) -> str:
        shapes = ("x".join(map(str, shape)) for shape in (self.image, self.out))
        return " -> ".join(shapes) + (f", {self.sampler}" if self.sampler else "")

    @property
    def num_spatial_dims(self) -> int:
        return len(self.image) - 2

    @property
    def where(self) -> str:
        return "grid" if self.sampler else "theta"

    @property
    def grid_size(self) -> int:
        return self.image[0] * int(np.prod(self.out)) * self.num_spatial_dims


CASES = (
    Case((256, 28, 28, 1), (28, 28)),
    Case((256, 60, 60, 1), (30, 30)),
    Case((128, 64, 64, 3), (64, 64)),
    Case((256, 10, 10, 64), (10, 10)),
    Case((128, 16, 16, 128), (16, 16)),
    Case((128, 8, 8, 192), (8, 8)),
    Case((8, 256, 256, 3), (256, 256)),
    Case((1, 1024, 1024, 3), (1024, 1024)),
    Case((2, 96, 160, 128), (96, 160), "flow"),
    Case((3, 256, 256, 32), (1, 300_000), "points"),
    Case((1, 64, 64, 64, 8), (1, 1, 100_000), "points"),
)

# The arguments to which gradients are computed: 0 is the image, 1 the theta or grid.
KINDS = {"forward": (), "backward to {}": (1,), "backward to image and {}": (0, 1)}


def draw(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, thetas (angles within +-90 degrees, scales 0.7 to 1.4) or grid, and cotangent."""
    rng = np.random.default_rng(seed)
    batch, channels = case.image[0], case.image[-1]
    image = rng.normal(size=case.image).astype(np.float32)
    cotangent = rng.normal(size=(batch, *case.out, channels)).astype(np.float32)
    if case.sampler is None:
        zoom = rng.uniform(0.7, 1.4, batch)
        thetas = affine.compose(
            affine.rotation(rng.uniform(-90, 90, batch)),
            affine.scaling(np.stack([zoom, zoom], -1)),
        )
        return image, np.asarray(thetas, np.float32), cotangent
    if case.sampler == "flow":
        still = np.asarray(affine_grid(affine.identity(case.num_spatial_dims), case.out))
        pixel = 2 / np.array(case.image[-2:0:-1])  # of x, y (and z)
        grid = still + 3 * pixel * rng.normal(size=(batch, *case.out, case.num_spatial_dims))
    else:
        grid = rng.uniform(-1, 1, (batch, *case.out, case.num_spatial_dims))
    return image, grid.astype(np.float32), cotangent


# --- the sides: functions of an image and a theta or grid, in JAX --------------------------------


def ours(case: Case) -> Callable[..., jax.Array]:
    if case.sampler is not None:
        return grid_sample
    return functools.partial(affine_transform, shape=case.out)


def _positions(case: Case, where: jax.Array) -> jax.Array:
    """Pixel positions ``[B, num_spatial_dims, *out]``, in the order of the image's axes."""
    grid = where if case.sampler else affine_grid(where, case.out)
    sizes = case.image[-2:0:-1]
    return jnp.stack(
        [
            normalized_to_pixel(grid[..., i], sizes[i])
            for i in reversed(range(case.num_spatial_dims))
        ],
        1,
    )


def _map_coordinates(case: Case) -> Callable[..., jax.Array]:
    def one(image: jax.Array, positions: jax.Array) -> jax.Array:
        def channel(x: jax.Array) -> jax.Array:
            return jax.scipy.ndimage.map_coordinates(x, [*positions], 1, "constant")

        return jax.vmap(channel, -1, -1)(image)

    return lambda image, where: jax.vmap(one)(image, _positions(case, where))


def _dm_pix(case: Case) -> Callable[..., jax.Array]:
    """Its interpolation repeats the edge, so a margin of zeros is added."""
    from dm_pix import flat_nd_linear_interpolate

    def one(image: jax.Array, positions: jax.Array) -> jax.Array:
        image = jnp.pad(image, [(1, 1)] * case.num_spatial_dims + [(0, 0)])

        def channel(x: jax.Array) -> jax.Array:
            return flat_nd_linear_interpolate(
                x.reshape(-1), positions + 1, unflattened_vol_shape=image.shape[:-1]
            )

        return jax.vmap(channel, -1, -1)(image)

    return lambda image, where: jax.vmap(one)(image, _positions(case, where))


def _jax_sides(case: Case) -> dict[str, Callable[..., jax.Array]]:
    sides = {"stn_jax": ours(case), "map_coordinates": _map_coordinates(case)}
    try:
        sides["dm_pix"] = _dm_pix(case)
    except ImportError:
        print("dm_pix is not installed: skipped", flush=True)
    return sides


def _compiled(warp: Callable[..., jax.Array], wrt: Sequence[int], args: Sequence[jax.Array]) -> Any:
    """The compiled program for the output and the gradients to some of the arguments."""

    def program(image: jax.Array, where: jax.Array, cotangent: jax.Array) -> tuple[Any, ...]:
        both = [image, where]

        def of_some(*some: jax.Array) -> jax.Array:
            for i, x in zip(wrt, some, strict=True):
                both[i] = x
            return warp(*both)

        output, pull_back = jax.vjp(of_some, *(both[i] for i in wrt))
        return (output, *pull_back(cotangent))

    forward = jax.jit(lambda image, where, cotangent: (warp(image, where),))
    return (jax.jit(program) if wrt else forward).lower(*args).compile()


# --- PyTorch --------------------------------------------------------------------------------------


def _torch_side(
    torch: Any, case: Case, wrt: Sequence[int], arrays: Sequence[np.ndarray], dtype: Any = None
) -> Callable[[], tuple[Any, ...]]:
    """Output and gradients in PyTorch, channels first; with float64, on CPU, as the reference."""
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() and dtype is None else "cpu"
    image, where, cotangent = arrays
    to = functools.partial(torch.tensor, dtype=dtype or torch.float32, device=device)
    leaves = [to(np.moveaxis(image, -1, 1)), to(where)]
    cotangent = to(np.moveaxis(cotangent, -1, 1))
    for i in wrt:
        leaves[i].requires_grad_()

    def warp() -> Any:
        grid = leaves[1]
        if case.sampler is None:
            size = (*leaves[0].shape[:2], *case.out)
            grid = functional.affine_grid(grid, [*size], align_corners=False)
        return functional.grid_sample(leaves[0], grid, align_corners=False)

    def run() -> tuple[Any, ...]:
        if not wrt:
            with torch.no_grad():
                return (warp(),)
        output = warp()
        return (output, *torch.autograd.grad(output, [leaves[i] for i in wrt], cotangent))

    return run


def _from_torch(results: Sequence[Any], wrt: Sequence[int]) -> list[np.ndarray]:
    """Results as arrays in our layout: the output and the image's gradient with channels last."""
    images = [True, *(i == 0 for i in wrt)]
    arrays = [x.detach().cpu().numpy() for x in results]
    return [np.moveaxis(x, 1, -1) if last else x for x, last in zip(arrays, images, strict=True)]


# --- the measurement -----------------------------------------------------------------------------


def errors(
    case: Case, found: Sequence[Any], exact: Sequence[np.ndarray], wrt: Sequence[int]
) -> dict[str, float]:
    """The largest errors by quantity; for gradients relative to the largest element."""
    names = ["output", *("image" if i == 0 else case.where for i in wrt)]
    result = {}
    for name, a, b in zip(names, found, exact, strict=True):
        scale = 1 if name == "output" else np.abs(b).max()
        result[name] = float(np.abs(np.asarray(a, np.float64) - b).max() / scale)
    return result


def memory(case: Case, program: Any) -> dict[str, float | None]:
    """A compiled program's bytes, divided by those of image, output and grid together."""
    stats = program.memory_analysis()
    if stats is None:
        return {}
    out = case.image[0] * int(np.prod(case.out)) * case.image[-1]
    size = 4 * (int(np.prod(case.image)) + out + case.grid_size)
    temporary = stats.temp_size_in_bytes
    total = temporary + stats.argument_size_in_bytes + stats.output_size_in_bytes
    return {"temporary memory": temporary / size, "total memory": total / size}


def row_name(case: Case, kind: str) -> str:
    return f"{case.name}, {kind.format(case.where)}"


def measure(report: Report, case: Case, kind: str, rounds: int, budget: float, torch: Any) -> None:
    """One row."""
    wrt = KINDS[kind]
    arrays = draw(case)
    args = [jnp.asarray(x) for x in arrays]
    programs = {name: _compiled(side, wrt, args) for name, side in _jax_sides(case).items()}
    sides: dict[str, Callable[[], Any]] = {
        name: functools.partial(program, *args) for name, program in programs.items()
    }
    accuracy = {}
    if torch is not None:
        sides["torch"] = _torch_side(torch, case, wrt, arrays)
        exact = _from_torch(_torch_side(torch, case, wrt, arrays, torch.float64)(), wrt)
        for name, side in sides.items():
            found = _from_torch(side(), wrt) if name == "torch" else side()
            accuracy[name] = errors(case, found, exact, wrt)
    report.row(
        row_name(case, kind),
        {"image": case.image, "out": case.out, "sampler": case.sampler, "gradients": len(wrt)},
        times=compare(sides, rounds, budget=budget),
        values=memory(case, programs["stn_jax"]) if wrt == (0, 1) else None,
        accuracy=accuracy,
    )


def main(argv: Sequence[str] | None = None, cases: Sequence[Case] = CASES) -> None:
    parser = flags(__doc__, rounds=30, budget=0.5)
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    options = parser.parse_args(argv)
    torch = optional_torch()
    report = Report("warp", {"rounds": options.rounds, "budget": options.budget}, options.folder)
    for case in cases:
        for kind in KINDS:
            if options.only in row_name(case, kind):
                measure(report, case, kind, options.rounds, options.budget, torch)


if __name__ == "__main__":
    main()
