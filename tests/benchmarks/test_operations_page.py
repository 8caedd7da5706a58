"""The examples of docs/operations.md run; every operation is in the documents and benchmarks.

That each has a place in the reference is a test of the reference.
"""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import stn_jax
from benchmarks import augment as augmenting
from benchmarks import operations
from benchmarks import warp as warping
from stn_jax import augment

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "operations.md").read_text()


def functions(module) -> set[str]:
    """The functions that a module exports, but for those of networks."""
    exported = {name: getattr(module, name) for name in module.__all__}
    return {
        name
        for name, value in exported.items()
        if inspect.isfunction(value)
        and value.__module__.startswith(("stn_jax.warp", augment.__name__))
    }


WARPS, AUGMENTATIONS = functions(stn_jax), functions(augment)
# What others are made of, and are measured with and seen in.
PARTS = {"affine_grid", "on_uint8", "apply_theta", "apply_displacement"}
# What has no picture of its own: remap shows it in pixels; coefficients; a vector for each query.
UNSEEN = {"grid_sample", "spline_filter", "multi_scale_deformable_attention"}


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("page", ["operations.md", "porting.md"])
def test_every_operation_is_in_the_tables(page):
    rows = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("|")]
    expected = WARPS | AUGMENTATIONS
    if page == "operations.md":  # which is about what stands over these three
        expected -= {"affine_grid", "affine_transform", "grid_sample"} | AUGMENTATIONS
    assert expected - names_in("\n".join(rows)) == set()


def test_every_operation_has_a_row_of_a_benchmark():
    rows = names_in(" ".join(row.name for row in operations.rows(None)))
    measured = rows | names_in(inspect.getsource(warping.ours)) | PARTS
    assert WARPS - measured == set()
    timed = set(re.findall(r"augment\.(\w+)", inspect.getsource(augmenting)))
    assert AUGMENTATIONS - timed - PARTS == set()


@pytest.mark.slow
def test_every_operation_is_in_the_picture():
    draw_operations = pytest.importorskip("tools.draw_operations")
    panels = draw_operations.panels(draw_operations.card())
    seen = names_in(" ".join(title for title, _, _ in panels))
    assert WARPS - seen == (PARTS & WARPS) | UNSEEN
    assert AUGMENTATIONS - seen == PARTS & AUGMENTATIONS


def test_the_examples_run():
    found: dict = {}
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    assert len(examples) == 4
    for example in examples:
        exec(compile(example, "operations.md", "exec"), found)
    np.testing.assert_allclose(found["moved"], found["same"], atol=1e-5)
    np.testing.assert_allclose(found["moved"][:, :5], [[[0.5, 0.4, 0.3]] * 5] * 48, atol=1e-5)
    assert found["warped"].dtype == "uint8"
    assert (found["warped"][:, :5] == 255).all()
    np.testing.assert_allclose(found["slopes"].sum(), 43 * 64 * 3, rtol=0.03)
    assert found["thetas"].shape == (8, 2, 3)
    assert found["augmented_batch"].mask.shape == (8, 48, 64)
