"""The handlers as XLA calls them: what does not fit is an error that names the shapes."""

import jax
import numpy as np
import pytest
from kernels import adjoint, attributes, sample

from stn_jax.warp import native

pytestmark = pytest.mark.skipif(not native.available(), reason=native.status())

OPTIONS = {
    "rank": 2,
    "theta": True,
    "mode": "bilinear",
    "padding_mode": "zeros",
    "align_corners": False,
}


def call(image, where, out, dtype=np.float32, **changes):
    """The handler for samples with whatever arguments, and a result of whatever shape."""
    made = jax.ffi.ffi_call(native.SAMPLE, jax.ShapeDtypeStruct(out, dtype))
    arrays = [np.zeros(x, dtype) if isinstance(x, tuple) else x for x in (image, where)]
    options = attributes(**OPTIONS)
    changes = {name: np.int64(value) for name, value in changes.items()}
    return jax.block_until_ready(made(*arrays, **{**options, **changes}))


@pytest.mark.parametrize(
    ("image", "where", "out", "changes", "message"),
    [
        ((4, 5, 3), (2, 3), (4, 5, 2), {}, "shapes do not match"),
        ((4, 5, 3), (2, 4), (4, 5, 3), {}, "shapes do not match"),
        ((4, 5, 3), (3, 3), (4, 5, 3), {}, "shapes do not match"),
        ((4, 5, 3), (6,), (4, 5, 3), {}, "numbers of axes"),
        ((5, 3), (2, 3), (5, 3), {}, "numbers of axes"),
        ((), (), (), {}, "numbers of axes"),
        ((2, 4, 5, 3), (3, 2, 3), (3, 4, 5, 3), {}, "leading axes do not broadcast"),
        ((0, 5, 3), (2, 3), (4, 5, 3), {}, "no pixel to sample from"),
        ((4, 5, 3), (4, 6, 2), (4, 5, 3), {"theta": 0}, "shapes do not match"),
        ((4, 5, 3), (2, 3), (4, 5, 3), {"rank": 4}, "unknown number of dimensions"),
        ((4, 5, 3), (2, 3), (4, 5, 3), {"rank": -1}, "unknown number of dimensions"),
        (
            (4, 5, 3),
            (2, 3),
            (4, 5, 3),
            {"mode": 3},
            "unknown number of dimensions, mode or padding",
        ),
        (
            (4, 5, 3),
            (2, 3),
            (4, 5, 3),
            {"padding": -1},
            "unknown number of dimensions, mode or padding",
        ),
        (
            (4, 4, 5, 3),
            (3, 4),
            (4, 4, 5, 3),
            {"rank": 3, "mode": 2},
            "unknown number of dimensions, mode",
        ),
        ((4, 5, 3), np.zeros((2, 3), np.int32), (4, 5, 3), {}, "element types differ"),
    ],
)
def test_what_does_not_fit_is_refused(image, where, out, changes, message):
    with pytest.raises(Exception, match=f"stn_jax: .*{message}") as error:
        call(image, where, out, **changes)
    assert "image [" in str(error.value)
    assert "output [" in str(error.value)


@pytest.mark.parametrize("dtype", [np.int32, np.float16])
def test_other_element_types_are_refused(dtype):
    with pytest.raises(Exception, match="expected float32 or float64"):
        call((4, 5, 3), (2, 3), (4, 5, 3), dtype)


def test_gradients_that_do_not_fit_are_refused():
    image, theta, cotangent = (
        np.zeros(shape, np.float32) for shape in ((4, 5, 3), (2, 3), (4, 5, 3))
    )
    wrong = jax.ffi.ffi_call(native.ADJOINT, [jax.ShapeDtypeStruct((2, 2), np.float32)])
    flags = {"image_gradient": np.int64(0), "where_gradient": np.int64(1)}
    with pytest.raises(Exception, match=r"a gradient has shape .*, its argument"):
        jax.block_until_ready(wrong(image, theta, cotangent, **attributes(**OPTIONS), **flags))
    flags = {"image_gradient": np.int64(1), "where_gradient": np.int64(1)}
    with pytest.raises(Exception, match="results do not match the requested gradients"):
        jax.block_until_ready(wrong(image, theta, cotangent, **attributes(**OPTIONS), **flags))


@pytest.mark.parametrize(
    ("image", "lead", "out"),
    [
        ((0, 4, 5, 3), (0,), (4, 5)),
        ((4, 5, 0), (), (4, 5)),
        ((4, 5, 3), (), (0, 5)),
        ((0, 0, 2), (), (0, 0)),
        ((1, 4, 5, 1), (0,), (4, 5)),
    ],
)
def test_of_nothing_there_is_nothing_and_gradients_are_zero(image, lead, out):
    image = np.ones(image, np.float32)
    theta = np.ones((*lead, 2, 3), np.float32)
    found = sample(image, theta, out, **OPTIONS)
    assert found.size == 0
    for x, like in zip(adjoint(image, theta, found, **OPTIONS), (image, theta), strict=True):
        np.testing.assert_array_equal(x, np.zeros_like(like))
