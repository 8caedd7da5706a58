"""What the tests of warps share."""

import pytest

from stn_jax.warp import native
from stn_jax.warp.primitives import force_implementation


@pytest.fixture(params=["native", "xla"])
def each_implementation(request):
    """Runs a test with each of the implementations that a CPU has.

    Tests without it run with the default; .ci/run runs all of them without the library too.
    """
    if request.param == "native" and not native.available():
        pytest.skip(native.status())
    with force_implementation(request.param):
        yield
