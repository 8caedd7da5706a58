"""The warps give what the reference implementation of ONNX gives, for recorded cases."""

import numpy as np
import pytest
from record_onnx_cases import FILE, SHAPES, samples

from stn_jax.warp import affine_grid, grid_sample

OUR_MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
SAMPLES = [(rank, *setting) for rank in SHAPES for setting in samples(rank)]


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("rank", SHAPES)
def test_affine_grid_is_affine_grid(recorded, rank, align_corners):
    _, shape = SHAPES[rank]
    found = affine_grid(recorded[f"{rank}/theta"], shape, align_corners=align_corners)
    expected = recorded[f"{rank}/affine_grid"][int(align_corners)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rank", "mode", "padding_mode", "align_corners"), SAMPLES)
def test_grid_sample_is_grid_sample(recorded, rank, mode, padding_mode, align_corners):
    index = samples(rank).index((mode, padding_mode, align_corners))
    found = grid_sample(
        recorded[f"{rank}/image"],
        recorded[f"{rank}/grid"][index],
        mode=OUR_MODES[mode],
        padding_mode=padding_mode,
        align_corners=align_corners,
    )
    np.testing.assert_allclose(found, recorded[f"{rank}/output"][index], rtol=0, atol=1e-5)
