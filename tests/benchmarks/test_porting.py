"""The examples of docs/porting.md run, and both sides of each give the same."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "porting.md").read_text()


@pytest.fixture(scope="module")
def names() -> dict:
    """What the examples define, one after the other."""
    pytest.importorskip("torch")
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    assert len(examples) == 3
    found: dict = {}
    for example in examples:
        exec(compile(example, "porting.md", "exec"), found)
    return found


def assert_same(ours, theirs, tolerance=1e-5):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.slow
def test_a_warp_and_its_gradients(names):
    assert_same(names["grid"], names["grid_t"])
    assert_same(names["warped"], names["warped_t"].permute(0, 2, 3, 1))
    assert_same(names["d_images"], names["image_t"].grad.permute(0, 2, 3, 1))
    assert_same(names["d_theta"], names["theta_t"].grad)


def test_the_transformer_starts_at_the_identity(names):
    np.testing.assert_allclose(names["aligned"], names["digits"], atol=1e-5)
    assert names["thetas"].shape == (4, 2, 3)


def test_weights_travel_both_ways(names):
    assert_same(names["logits"], names["logits_t"])
    names["jax"].tree.map(np.testing.assert_array_equal, names["back"], names["params"])


def test_pytorch_requires_image_and_grid_of_the_same_type(names):
    torch = names["torch"]
    image, grid = torch.ones(1, 1, 3, 3, dtype=torch.bfloat16), torch.zeros(1, 2, 2, 2)
    with pytest.raises(RuntimeError, match=r"same dtype|expected scalar type"):
        names["F"].grid_sample(image, grid, align_corners=False)
    ours = names["stn_jax"].grid_sample(np.ones((3, 3, 1), "bfloat16"), np.zeros((2, 2, 2), "f4"))
    assert ours.dtype == "bfloat16"
