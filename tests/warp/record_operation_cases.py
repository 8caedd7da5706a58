"""Records what kornia, OpenCV and torchvision make of some warps; tests compare without them.

Run as ``python tests/warp/record_operation_cases.py``, where these are installed; it writes
``tests/data/operation_cases.npz``. Of torchvision it runs ``_roi_align``, its implementation in
Python: the operators in C++ work with one version of PyTorch alone.

kornia and torchvision compute in float64. OpenCV has float32 images and rounds positions to 1/32
pixel, so its cases move by multiples of that.
"""

import importlib.util
import pathlib
import sys
import types

import numpy as np

FILE = pathlib.Path(__file__).resolve().parents[1] / "data" / "operation_cases.npz"
SIZE, OUT = (9, 12), (7, 10)
AFFINE = np.array([[[0.9, -0.3, 2.0], [0.2, 1.1, -1.5]], [[-0.6, 0.5, 5.0], [0.4, 0.7, 1.0]]])
PERSPECTIVE = np.array(
    [
        [[0.9, -0.2, 1.0], [0.1, 1.1, -0.7], [0.01, -0.02, 1.0]],
        [[1.2, 0.3, -2.0], [-0.2, 0.8, 1.3], [-0.015, 0.01, 0.9]],
    ]
)
# Steps of 1/32 pixel: the inverse, from output to input, as OpenCV samples by it.
EXACT = np.array([[0.5, 0.25, 1.5], [-0.125, 0.75, 2.0]])
BOXES = np.array(
    [
        [1.0, 2.0, 9.3, 7.7],
        [0.0, 0.0, 24.0, 18.0],
        [-3.0, -2.0, 5.0, 20.0],
        [4.2, 3.1, 4.6, 3.3],
        [20.0, 15.0, 40.0, 30.0],
        [5.0, 5.0, 5.0, 9.0],
        [7.0, 6.0, 3.0, 2.0],
    ]
)
ROI_OPTIONS = [
    (ratio, aligned, scale)
    for ratio in (-1, 1, 2, 3)
    for aligned in (True, False)
    for scale in (1.0, 0.5)
]


def kornia_cases(image):
    import torch
    from kornia.geometry import transform

    channels_first = torch.tensor(np.moveaxis(image, -1, 1))
    found = {}
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border", "reflection"):
            for name, warp, matrix in (
                ("affine", transform.warp_affine, AFFINE),
                ("perspective", transform.warp_perspective, PERSPECTIVE),
            ):
                warped = warp(
                    channels_first,
                    torch.tensor(matrix),
                    OUT,
                    mode=mode,
                    padding_mode=padding,
                    align_corners=True,
                )
                found[f"kornia {name}/{mode}/{padding}"] = np.moveaxis(warped.numpy(), 1, -1)
    rng = np.random.default_rng(1)
    positions = rng.uniform(-2, 13, (2, *OUT, 2))
    maps = torch.tensor(positions)
    remapped = transform.remap(channels_first, maps[..., 0], maps[..., 1], align_corners=True)
    found["positions"] = positions
    found["kornia remap"] = np.moveaxis(remapped.numpy(), 1, -1)
    return found


def opencv_cases(image):
    import cv2

    image = image[0].astype(np.float32)
    size = OUT[::-1]
    fill = (0.25, -0.5, 0.75)
    borders = {"border": cv2.BORDER_REPLICATE, "corners": cv2.BORDER_REFLECT_101}
    borders["edges"] = cv2.BORDER_REFLECT
    found = {"fill": np.array(fill)}
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for name, border in {**borders, "fill": cv2.BORDER_CONSTANT}.items():
        found[f"opencv affine/{name}"] = cv2.warpAffine(
            image, EXACT, size, flags=flags, borderMode=border, borderValue=fill
        )
    rng = np.random.default_rng(2)
    positions = (rng.integers(-2 * 32, 13 * 32, (*OUT, 2)) / 32).astype(np.float32)
    found["opencv positions"] = positions
    found["opencv remap"] = cv2.remap(
        image, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
    return found


def torchvision_cases(image):
    import torch

    roi_align = _torchvision_roi_align()
    rois = np.concatenate(
        [np.concatenate([np.full((len(BOXES), 1), k), BOXES], 1) for k in range(len(image))]
    )
    channels_first = torch.tensor(np.moveaxis(image, -1, 1))
    found = {}
    for ratio, aligned, scale in ROI_OPTIONS:
        bins = roi_align(channels_first, torch.tensor(rois), scale, 3, 2, ratio, aligned)
        bins = np.moveaxis(bins.numpy(), 1, -1)
        found[f"roi_align/{ratio}/{aligned}/{scale}"] = bins.reshape(2, len(BOXES), *bins.shape[1:])
    return found


def _torchvision_roi_align():
    """Its implementation in Python, whose file needs none of the operators in C++."""
    folder = pathlib.Path(importlib.util.find_spec("torchvision").origin).parent
    for name, path in (("torchvision", folder), ("torchvision.ops", folder / "ops")):
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
    module = importlib.import_module("torchvision.ops.roi_align")
    return module._roi_align.__wrapped__  # not compiled


def record():
    image = np.random.default_rng(0).uniform(-1, 1, (2, *SIZE, 3))
    cases = {**kornia_cases(image), **opencv_cases(image), **torchvision_cases(image)}
    return {"image": image, **cases}


if __name__ == "__main__":
    np.savez_compressed(FILE, **record())
