"""Time and error of the operations built on the sampler, each against its closest rival.

    python -m benchmarks.operations [--rounds=30] [--budget=0.5] [--only=TEXT]

The rivals PyTorch, SciPy, OpenCV and kornia get the same numbers in their own layouts, and are
skipped if they are not installed. Errors are the largest differences from the rival in float64
(SciPy, PyTorch), for outputs of order 1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import stn_jax
from benchmarks.harness import Report, compare, flags, optional_torch
from stn_jax.warp import affine


class Row(NamedTuple):
    """One operation: ours as a function of arrays, and its rivals by name.

    Attributes:
      name: the row's name.
      ours: function of the arguments.
      args: float32 arrays.
      rivals: functions without arguments.
      exact: function that returns the result in float64, in the layout of stn_jax, or None.
    """

    name: str
    ours: Callable[..., jax.Array]
    args: tuple[np.ndarray, ...]
    rivals: dict[str, Callable[[], Any]]
    exact: Callable[[], np.ndarray] | None = None


def _optional(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        print(f"{name} is not installed: skipped", flush=True)
        return None


def _first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def pixel_matrices(torch: Any) -> list[Row]:
    """warp_affine, warp_perspective and remap of photographs."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (8, 256, 256, 3)).astype(np.float32)
    matrix = np.array([[0.9, -0.3, 30], [0.25, 0.95, -20]], np.float32)
    homography = np.concatenate([matrix, np.array([[2e-4, -3e-4, 1]], np.float32)])
    y, x = np.mgrid[:256, :256].astype(np.float32)
    positions = np.stack([x, y], -1) + rng.normal(0, 3, (256, 256, 2)).astype(np.float32)
    out = (256, 256)
    rivals: list[dict[str, Callable[[], Any]]] = [{}, {}, {}]
    if (cv2 := _optional("cv2")) is not None:
        rivals[0]["opencv"] = lambda: [cv2.warpAffine(i, matrix, out) for i in image]
        rivals[1]["opencv"] = lambda: [cv2.warpPerspective(i, homography, out) for i in image]
        rivals[2]["opencv"] = lambda: [cv2.remap(i, positions, None, 1) for i in image]
    if torch is not None and (kornia := _optional("kornia")) is not None:
        transform = kornia.geometry.transform
        first, maps = (
            torch.tensor(_first(image)),
            torch.tensor(positions)[None].expand(8, -1, -1, -1),
        )
        many = [torch.tensor(m)[None].expand(8, -1, -1) for m in (matrix, homography)]
        rivals[0]["kornia"] = lambda: transform.warp_affine(first, many[0], out)
        rivals[1]["kornia"] = lambda: transform.warp_perspective(first, many[1], out)
        rivals[2]["kornia"] = lambda: transform.remap(first, maps[..., 0], maps[..., 1])
    warps: tuple[tuple[Callable[..., jax.Array], np.ndarray], ...] = (
        (functools.partial(stn_jax.warp_affine, shape=out), matrix),
        (functools.partial(stn_jax.warp_perspective, shape=out), homography),
        (stn_jax.remap, positions),
    )
    return [
        Row(f"{name}, 8x256x256x3", warp, (image, where), rival)
        for name, (warp, where), rival in zip(
            ("warp_affine", "warp_perspective", "remap"), warps, rivals, strict=True
        )
    ]


def flows(torch: Any) -> list[Row]:
    """flow_warp and the occlusion check of two flows."""
    rng = np.random.default_rng(4)
    image = rng.uniform(0, 1, (8, 256, 256, 3)).astype(np.float32)
    flow, back = (rng.normal(0, 3, (8, 256, 256, 2)).astype(np.float32) for _ in range(2))
    rivals, exact = {}, None
    if torch is not None:

        def reference(dtype: Any) -> Callable[[], Any]:
            first, moved = torch.tensor(_first(image), dtype=dtype), torch.tensor(flow, dtype=dtype)
            y, x = torch.meshgrid(*[torch.arange(256, dtype=dtype)] * 2, indexing="ij")
            pixels = torch.stack([x, y], -1)
            return lambda: torch.nn.functional.grid_sample(
                first, (2 * (pixels + moved) + 1) / 256 - 1, align_corners=False
            )

        rivals["torch"] = reference(torch.float32)
        exact = lambda: np.moveaxis(reference(torch.float64)().numpy(), 1, -1)  # noqa: E731
    # A mask has no gradient, so its weighted sum stands in for it.
    occluded = lambda *flows: stn_jax.occlusion_mask(*flows).astype(np.float32)  # noqa: E731
    return [
        Row("flow_warp, 8x256x256x3", stn_jax.flow_warp, (image, flow), rivals, exact),
        Row("occlusion_mask, 8x256x256", occluded, (flow, back), {}),
    ]


def boxes(torch: Any) -> list[Row]:
    """roi_align by sampling and by products, and antialiased resizing."""
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(50, 68, 256)).astype(np.float32)
    low = rng.uniform(0, 40, (100, 2))
    corners = np.concatenate([low, low + rng.uniform(4, 28, (100, 2))], -1).astype(np.float32)
    vision = None if torch is None else _optional("torchvision")
    rows = []
    for ratio in (2, -1):
        rival: dict[str, Callable[[], Any]] = {}
        if vision is not None:
            theirs = functools.partial(
                vision.ops.roi_align, output_size=(7, 7), sampling_ratio=ratio, aligned=True
            )
            one = torch.tensor(_first(maps[None])), [torch.tensor(corners)]
            rival["torchvision"] = functools.partial(theirs, *one)
        rows.append(
            Row(
                f"roi_align, 100 boxes of 50x68x256, sampling_ratio={ratio}",
                functools.partial(stn_jax.roi_align, shape=(7, 7), sampling_ratio=ratio),
                (maps, corners),
                rival,
            )
        )
    image = rng.uniform(0, 1, (8, 256, 256, 3)).astype(np.float32)
    whole = np.array([[0, 0, 256, 256]], np.float32)
    rivals: dict[str, Callable[[], Any]] = {}
    resize = jax.jit(lambda x: jax.image.resize(x, (8, 64, 64, 3), "linear", antialias=True))
    rivals["jax.image.resize"] = functools.partial(resize, jnp.asarray(image))
    exact = None
    if torch is not None:
        interpolate = functools.partial(
            torch.nn.functional.interpolate,
            size=(64, 64),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        first = torch.tensor(_first(image))
        rivals["torch"] = functools.partial(interpolate, first)
        exact = lambda: np.moveaxis(interpolate(first.double()).numpy(), 1, -1)  # noqa: E731
    crop = functools.partial(stn_jax.crop_and_resize, shape=(64, 64), antialias=True)
    name = "crop_and_resize, 8x256x256x3 to 64x64, antialias"
    rows.append(Row(name, lambda x, box: crop(x, box)[:, 0], (image, whole), rivals, exact))
    turned = np.asarray(affine.rotation(30.0), np.float32)
    shrink = functools.partial(stn_jax.affine_transform, shape=(64, 64), antialias=True)
    rows.append(
        Row("affine_transform, 8x256x256x3 to 64x64, antialias", shrink, (image, turned), {})
    )
    return rows


def splines() -> list[Row]:
    """map_coordinates of orders 1, 3 and 5, and spline_filter, against SciPy."""
    rng = np.random.default_rng(2)
    image = rng.normal(size=(512, 512)).astype(np.float32)
    volume = rng.normal(size=(64, 64, 64)).astype(np.float32)
    rows = []
    for x, count, orders in ((image, 262_144, (1, 3, 5)), (volume, 100_000, (1, 3))):
        where = rng.uniform(0, x.shape[0] - 1, (x.ndim, count)).astype(np.float32)
        for order in orders:
            scipys = functools.partial(ndimage.map_coordinates, order=order, mode="mirror")
            ours = functools.partial(stn_jax.map_coordinates, order=order, mode="mirror")
            rows.append(
                Row(
                    f"map_coordinates, {'x'.join(map(str, x.shape))}, order {order}",
                    ours,
                    (x, where),
                    {"scipy": functools.partial(scipys, x, where)},
                    functools.partial(scipys, x.astype(np.float64), where.astype(np.float64)),
                )
            )
    filtered = functools.partial(ndimage.spline_filter, order=3, mode="mirror")
    rows.append(
        Row(
            "spline_filter, 512x512, order 3",
            functools.partial(stn_jax.spline_filter, order=3),
            (image,),
            {"scipy": functools.partial(filtered, image, output=np.float32)},
            functools.partial(filtered, image.astype(np.float64)),
        )
    )
    return rows


def attention(torch: Any) -> list[Row]:
    """Deformable DETR's setting: 4 levels, 8 heads of 32 channels, 300 queries of 4 points."""
    rng = np.random.default_rng(3)
    sizes = ((64, 64), (32, 32), (16, 16), (8, 8))
    values = [rng.normal(size=(1, *size, 8, 32)).astype(np.float32) for size in sizes]
    locations = rng.uniform(0, 1, (1, 300, 8, 4, 4, 2)).astype(np.float32)
    weights = rng.uniform(0, 1, (1, 300, 8, 4, 4)).astype(np.float32)

    def reference(dtype: Any) -> Any:
        maps = [torch.tensor(v, dtype=dtype).permute(0, 3, 4, 1, 2).flatten(0, 1) for v in values]
        grids = 2 * torch.tensor(locations, dtype=dtype).transpose(1, 2).flatten(0, 1) - 1
        factors = torch.tensor(weights, dtype=dtype).transpose(1, 2).reshape(8, 1, 300, 16)

        def run() -> Any:
            sampled = [
                torch.nn.functional.grid_sample(m, grids[:, :, k], align_corners=False)
                for k, m in enumerate(maps)
            ]
            total = (torch.stack(sampled, -2).flatten(-2) * factors).sum(-1)
            return total.view(1, 256, 300).transpose(1, 2)

        return run

    def ours(*args: jax.Array) -> jax.Array:
        return stn_jax.multi_scale_deformable_attention(args[:4], *args[4:])

    rivals, exact = {}, None
    if torch is not None:
        rivals["torch"] = reference(torch.float32)
        exact = lambda: reference(torch.float64)().numpy()  # noqa: E731
    name = "multi_scale_deformable_attention, 300 queries, 4 levels, 8 heads"
    return [Row(name, ours, (*values, locations, weights), rivals, exact)]


def measure(report: Report, row: Row, rounds: int, budget: float) -> None:
    """One row: our forward pass against the rivals', and ours with gradients to all arguments."""
    args = [jnp.asarray(x) for x in row.args]
    forward = jax.jit(row.ours).lower(*args).compile()
    loss = lambda *args: row.ours(*args).sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss, tuple(range(len(args))))).lower(*args).compile()
    sides: dict[str, Callable[[], Any]] = {"stn_jax": functools.partial(forward, *args)}
    sides |= row.rivals
    times = compare(sides, rounds, budget=budget)
    again = compare({"": functools.partial(gradients, *args)}, rounds, budget=budget)
    accuracy = None
    if row.exact is not None:
        error = np.abs(np.asarray(forward(*args), np.float64) - row.exact()).max()
        accuracy = {"stn_jax": {"output": float(error)}}
    report.row(
        row.name,
        {"shapes": [list(x.shape) for x in row.args]},
        times=times,
        values={"gradients, ms": 1e3 * again[""].median},
        accuracy=accuracy,
    )


def rows(torch: Any) -> list[Row]:
    """All rows; ``torch`` is None if it is not installed."""
    makers = (pixel_matrices, flows, boxes, lambda _: splines(), attention)
    return [row for make in makers for row in make(torch)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=30, budget=0.5)
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    options = parser.parse_args(argv)
    torch = optional_torch()
    report = Report(
        "operations", {"rounds": options.rounds, "budget": options.budget}, options.folder
    )
    for row in rows(torch):
        if options.only in row.name:
            measure(report, row, options.rounds, options.budget)


if __name__ == "__main__":
    main()
