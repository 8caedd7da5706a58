"""README's examples run as they stand."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_python_examples_run_one_after_the_other():
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    assert len(examples) >= 4
    names: dict = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    logits = names["Classifier"]().init_with_output(names["jax"].random.key(0), names["images"])[0]
    assert logits.shape == (8, 10)
    assert names["logits"].shape == (8, 10)


def test_the_files_and_folders_that_it_names_exist():
    text = (ROOT / "README.md").read_text()
    paths = re.findall(
        r"\((docs/[^)]+)\)|`((?:stn_jax|configs|tests|benchmarks|docs)/[^` ]*)`", text
    )
    named = {a or b for a, b in paths}
    assert len(named) > 5
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
