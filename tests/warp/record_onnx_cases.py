"""Records what the reference implementation of ONNX makes of AffineGrid and GridSample.

Run as ``python tests/warp/record_onnx_cases.py`` where ``onnx`` is installed; it writes
``tests/data/onnx_warp_cases.npz``.

Left out, since the reference (onnx 1.23) does something else than PyTorch or has no answer:

- "cubic" with padding "border" for positions outside the image: the reference clamps the position
  itself, PyTorch (and we) only the pixels that the kernel touches. These cases get positions
  inside.
- axes of a single pixel with aligned corners: the reference divides by zero.

The reference computes positions in float32; so positions keep a distance from the places where
rounding decides which pixel is the nearest.
"""

import itertools
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).resolve().parents[1] / "data" / "onnx_warp_cases.npz"
MODES = {2: ("nearest", "linear", "cubic"), 3: ("nearest", "linear")}
PADDING_MODES = ("zeros", "border", "reflection")
SHAPES = {2: ((5, 7), (4, 2)), 3: ((3, 5, 6), (2, 4, 2))}  # of image and grid
BATCH = 8


def samples(rank):
    """The settings of GridSample, in the order of recording."""
    return list(itertools.product(MODES[rank], PADDING_MODES, (False, True)))


def draw_grid(rng, rank, mode, padding_mode):
    sizes = np.array(SHAPES[rank][0][::-1])
    farthest = 0 if (mode, padding_mode) == ("cubic", "border") else 4  # pixels outside
    shape = (BATCH, *SHAPES[rank][1], rank)
    whole = rng.integers(-farthest, sizes - 1 + farthest, shape)
    pixel = whole + rng.choice([0.1, 0.3, 0.6, 0.8], shape)
    edges = (2 * pixel + 1) / sizes - 1
    corners = 2 * pixel / (sizes - 1) - 1
    return {False: np.float32(edges), True: np.float32(corners)}


def run(operator, version, inputs, **attributes):
    """The output of one operator, from the reference implementation."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    kinds = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int64"): TensorProto.INT64}
    node = helper.make_node(operator, list(inputs), ["output"], **attributes)
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info(k, kinds[v.dtype], v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    return ReferenceEvaluator(model).run(None, inputs)[0]


def record():
    rng = np.random.default_rng(2015)
    cases = {}
    for rank, (image_shape, grid_shape) in SHAPES.items():
        theta = np.float32(rng.normal(size=(BATCH, rank, rank + 1)))
        size = np.array([BATCH, 1, *grid_shape])
        cases[f"{rank}/theta"] = theta
        cases[f"{rank}/affine_grid"] = np.stack(
            [
                run("AffineGrid", 20, {"theta": theta, "size": size}, align_corners=corners)
                for corners in (0, 1)
            ]
        )
        image = np.float32(rng.uniform(-1, 1, (1, *image_shape, 2)))
        cases[f"{rank}/image"] = image
        batch = np.repeat(np.moveaxis(image, -1, 1), BATCH, axis=0)
        grids, outputs = [], []
        for mode, padding_mode, align_corners in samples(rank):
            grid = draw_grid(rng, rank, mode, padding_mode)[align_corners]
            output = run(
                "GridSample",
                20,
                {"image": batch, "grid": grid},
                mode=mode,
                padding_mode=padding_mode,
                align_corners=int(align_corners),
            )
            grids.append(grid)
            outputs.append(np.moveaxis(output, 1, -1))
        cases[f"{rank}/grid"] = np.stack(grids)
        cases[f"{rank}/output"] = np.stack(outputs)
    return cases


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **record())
