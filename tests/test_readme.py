"""The examples of README and docs run as they stand, and the files that they name exist."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import ndimage

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Pages whose examples run elsewhere, or nowhere.
ELSEWHERE = {
    "guides/own_programs.md": "in a test of its own",
    "guides/examples.md": "in a test of its own",
    "porting.md": "beside PyTorch, in tests/benchmarks/test_porting.py",
    "svhn.md": "would download SVHN",
    "own_data.md": "with its commands, in tests/test_own_data_page.py",
}
# Where an example makes more than a test needs.
SMALLER = {"street_numbers.md": {"256": "4", "10_000": "8"}}


@pytest.fixture(autouse=True)
def a_folder_for_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def examples_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)


def run_examples(page: Path) -> dict:
    """What a page's examples define, one after the other."""
    names: dict = {}
    for example in examples_of(page):
        for old, new in SMALLER.get(page.name, {}).items():
            assert old in example
            example = example.replace(old, new)
        exec(compile(example, page.name, "exec"), names)
    return names


PAGES = {
    str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md")) if examples_of(path)
}


def test_readme():
    assert len(examples_of(ROOT / "README.md")) >= 3
    names = run_examples(ROOT / "README.md")
    assert names["rotated"].shape == (8, 64, 64, 3)
    logits, _ = names["Classifier"]().init_with_output(jax.random.key(0), names["images"])
    assert logits.shape == (8, 10)
    assert names["logits"].shape == (8, 10)


def test_the_examples_that_do_not_run_are_known():
    assert set(ELSEWHERE) <= set(PAGES)
    assert set(SMALLER) <= set(PAGES)


@pytest.mark.thin(*sorted(set(PAGES) - set(SMALLER)))  # the others draw house numbers
@pytest.mark.parametrize("page", sorted(set(PAGES) - set(ELSEWHERE)))
def test_the_examples_of_a_page_run(page):
    assert run_examples(PAGES[page])


def test_a_transformer_in_any_library_starts_at_the_identity():
    names = run_examples(DOCS / "guides" / "own_programs.md")
    assert names["logits"].shape == names["nnx_logits"].shape == (8, 10)
    for name in ("eqx_aligned", "plain_aligned"):
        np.testing.assert_allclose(names[name], names["images"], atol=1e-6)


@pytest.mark.parametrize("page", ["own_programs.md", "examples.md"])
def test_programs_of_a_guide_are_short(page):
    examples = examples_of(DOCS / "guides" / page)
    lengths = [sum(bool(line) for line in example.splitlines()) for example in examples]
    assert len(lengths) >= 5
    assert max(lengths) <= 15


@pytest.mark.slow
def test_the_short_programs_do_what_they_say(tmp_path):
    names = run_examples(DOCS / "guides" / "examples.md")
    photograph = np.asarray(names["photograph"])
    # Turned back, to one pose for each class.
    assert names["predicted_angles"].mean() < -20
    assert (tmp_path / "gallery.png").stat().st_size > 10_000
    np.testing.assert_allclose(names["flowed"][5:40, 5:50], photograph[4:39, 8:53], atol=1e-5)
    expected = np.zeros((48, 64), bool)
    expected[0], expected[:, 61:] = True, True  # one pixel up and three to the right is outside
    np.testing.assert_array_equal(names["occluded"], expected)
    # SciPy's positions are (y, x), from output to input.
    x, y, w = np.linalg.inv(names["homography"]) @ [*np.mgrid[:64, :48].reshape(2, -1), [1] * 3072]
    expected = ndimage.map_coordinates(photograph[..., 0], [y / w, x / w], order=1)
    expected = expected.reshape(64, 48).T[12:36, 12:50]
    np.testing.assert_allclose(names["viewed"][12:36, 12:50, 0], expected, atol=1e-4)
    np.testing.assert_allclose(names["crops"][1], photograph[5:37, 10:42], atol=1e-5)
    assert names["deformed"].mask.shape == (48, 64)
    assert set(np.unique(names["deformed"].mask)) == {0, 1}
    resized = jax.image.resize(photograph, (12, 16, 3), "bilinear", antialias=True)
    np.testing.assert_allclose(names["shrunk"], resized, atol=1e-4)
    assert names["losses"][-1] < 0.1 < names["losses"][0]
    for name in ("blocks_0", "blocks_1", "transformer"):
        jax.tree.map(
            np.testing.assert_array_equal, names["params"][name], names["variables"]["params"][name]
        )
    np.testing.assert_array_equal(names["probabilities"].argmax(-1), names["labels"][:5])


def test_matrices_in_pixels_are_those_of_scipy():
    names = run_examples(DOCS / "guides" / "kornia_opencv.md")
    # SciPy's are in (y, x), from output to input.
    forward = np.eye(3)
    forward[:2] = names["matrix"]
    back = np.linalg.inv(forward)[:2]
    for image, moved in zip(names["images"], names["moved"], strict=True):
        for c in range(3):
            expected = ndimage.affine_transform(
                image[..., c].astype(np.float64),
                back[::-1, 1::-1],
                back[::-1, 2],
                output_shape=(16, 24),
                order=1,
                mode="grid-constant",
            )
            np.testing.assert_allclose(moved[..., c], expected, rtol=0, atol=1e-4)
    assert np.abs(names["moved"]).max() > 0.5
    np.testing.assert_allclose(names["mirrored"], names["images"][:, :, ::-1], atol=1e-5)


def test_positions_in_pixels_are_those_of_map_coordinates():
    names = run_examples(DOCS / "guides" / "dm_pix.md")
    np.testing.assert_allclose(names["ours"], names["theirs"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page}" for page in PAGES)]
)
def test_the_files_and_folders_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    named = re.findall(r"`((?:stn_jax|configs|tests|benchmarks|docs|tools)/[^` <>*]*)`", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    missing += [path for path in named if not (ROOT / path.partition("::")[0]).exists()]
    assert missing == []
