"""What a type checker knows of the transformers' results."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from typing import assert_type

import jax

import stn_jax
import stn_jax.nnx


def linen(module: stn_jax.SpatialTransformer, image: jax.Array, flag: bool) -> None:
    assert_type(module(image), jax.Array)
    assert_type(module(image, return_theta=True), tuple[jax.Array, jax.Array])
    assert_type(module(image, None, True, True), tuple[jax.Array, jax.Array])
    assert_type(module(image, return_theta=flag), jax.Array | tuple[jax.Array, jax.Array])
    assert_type(module.predict(image), jax.Array)
    assert_type(module.warp(image, module.predict(image)), jax.Array)


def nnx(module: stn_jax.nnx.SpatialTransformer, image: jax.Array, flag: bool) -> None:
    assert_type(module(image), jax.Array)
    assert_type(module(image, return_theta=True), tuple[jax.Array, jax.Array])
    assert_type(module(image, return_theta=flag), jax.Array | tuple[jax.Array, jax.Array])
    assert_type(module.predict(image), jax.Array)
"""


@pytest.mark.slow
def test_results_have_known_types(tmp_path):
    api = pytest.importorskip("mypy.api")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    options = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={tmp_path / 'cache'}"]
    out, errors, status = api.run([*options, "--follow-imports=silent", str(path)])
    assert (status, errors) == (0, ""), out
