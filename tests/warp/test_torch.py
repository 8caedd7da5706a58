"""The warps give what PyTorch gives: recorded cases everywhere, random ones where it is installed.

The recorded numbers are PyTorch's in float64; ours are float32, which has to be enough for 1e-5.
"""

import functools
import zlib

import jax
import numpy as np
import pytest
from record_torch_cases import FILE, GEOMETRIES, draw, settings, torch_warp

from stn_jax.warp import affine_transform, grid_sample


def case_id(name, setting):
    return "-".join([name.replace(" ", "_"), *map(str, setting)])


RECORDED = [
    (name, index, setting)
    for name, geometry in GEOMETRIES.items()
    for index, setting in enumerate(settings(geometry))
]
# XLA compiles each; the quick run tries it on one in five, which are of all kinds.
CASES = [
    pytest.param(
        implementation,
        *case,
        id=f"{implementation}-{case_id(case[0], case[2])}",
        marks=pytest.mark.slow if implementation == "xla" and number % 5 else (),
    )
    for implementation in ("native", "xla")
    for number, case in enumerate(RECORDED)
]
LIVE = [
    pytest.param(name, setting, dtype, id=f"{case_id(name, setting)}-{dtype}")
    for name, dtype in (("image", "float32"), ("image", "float64"), ("volume", "float32"))
    for setting in settings(GEOMETRIES[name])
]


@functools.cache
def recorded():
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def warp(arrays, setting):
    """Ours, in the form of :func:`torch_warp`."""
    mode, padding_mode, align_corners = setting
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    if "theta" in arrays:
        shape = arrays["cotangent"].shape[1:-1]
        fn = functools.partial(affine_transform, shape=shape, **options)
        name, where = "d_theta", arrays["theta"]
    else:
        fn = functools.partial(grid_sample, **options)
        name, where = "d_grid", arrays["grid"]

    @jax.jit
    def with_gradients(image, where, cotangent):
        output, pull_back = jax.vjp(fn, image, where)
        d_image, d_where = pull_back(cotangent)
        return {"output": output, "d_image": d_image, name: d_where}

    return with_gradients(arrays["image"], where, arrays["cotangent"])


def assert_agree(ours, theirs, tolerance):
    # Images and cotangents are within [-1, 1], so 1 is the scale of the output. A gradient is a
    # sum of many terms, each with its own rounding, and these may cancel: what it may be off by
    # is measured by the terms. For theta they are known; for image and grid the largest entry
    # stands for them.
    for name, array in ours.items():
        expected = theirs[name]
        assert array.shape == expected.shape
        scale = theirs["theta_terms"] if name == "d_theta" else np.abs(expected).max()
        error = np.abs(np.asarray(array, np.float64) - expected) / np.maximum(scale, 1)
        assert error.max() <= tolerance, f"{name} is off by {error.max():.1e}"


@pytest.mark.thin
@pytest.mark.parametrize(
    ("each_implementation", "name", "index", "setting"), CASES, indirect=["each_implementation"]
)
def test_recorded_cases_are_met_within_1e_5_in_float32(each_implementation, name, index, setting):
    arrays, theirs = {}, {}
    for key, array in recorded().items():
        geometry, field = key.split("/")
        if geometry == name:
            if field in ("image", "theta", "grid", "cotangent"):
                arrays[field] = array
            else:
                theirs[field] = array[index]
    ours = warp(arrays, setting)
    assert_agree(ours, theirs, 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize(("name", "setting", "dtype"), LIVE)
def test_random_cases_are_met_in_the_same_precision(name, setting, dtype):
    pytest.importorskip("torch")
    seed = zlib.crc32(case_id(name, setting).encode())
    arrays = draw(np.random.default_rng(seed), GEOMETRIES[name])
    arrays = {key: array.astype(dtype) for key, array in arrays.items()}
    with jax.enable_x64(dtype == "float64"):
        ours = warp(arrays, setting)
    assert {array.dtype for array in ours.values()} == {np.dtype(dtype)}
    assert_agree(ours, torch_warp(arrays, setting, dtype), 1e-5 if dtype == "float32" else 1e-12)
