"""The examples of docs/operations.md run, and say what they should."""

import re
from pathlib import Path

import numpy as np

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


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
