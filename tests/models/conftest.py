"""What the tests of layers share."""

import jax
import pytest

from stn_jax.models.cpu import fourier, native, tiled


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def used(monkeypatch):
    """The modules of the forms that are used, one for each use; without the native kernels."""
    modules = []
    monkeypatch.setattr(native, "is_usable", lambda ctx, **options: False)

    def spy(module, form):
        def call(*args, **options):
            modules.append(module)
            return form(*args, **options)

        return call

    for module in (fourier, tiled):
        monkeypatch.setattr(module, "convolution", spy(module, module.convolution))
    return modules
