"""The photographs that reading is measured with, and the page of what was measured."""

import json

import numpy as np
import pytest

from benchmarks import photographs
from benchmarks.photograph_cases import CASES
from benchmarks.scenes import SIDE, Scene, no_digits, photograph, thinned
from stn_jax.data import sources

GLYPHS = sources.load("mnist_sample").test.images[:5, ..., 0]
BLANK = np.zeros((28, 28), np.uint8)


def taken(glyph=BLANK, seed=0, **scene):
    page = photograph(Scene(**scene), glyph, GLYPHS, np.random.default_rng(seed))
    assert (page.shape, page.dtype) == ((SIDE, SIDE, 3), np.uint8)
    return page.astype(float)


def test_in_even_light_paper_is_235_and_ink_40():
    page = taken(GLYPHS[0])
    assert (page.max(), page.min()) == (235, 40)
    rows, columns = np.nonzero(page[..., 0] < 140)
    assert abs(max(np.ptp(rows), np.ptp(columns)) - 20 / 28 * 200) < 12


def test_light_falls_off_as_stated():
    page = taken(falloff=0.5)
    assert (page.max(), page.min()) == (235, pytest.approx(235 / 2, abs=1))
    steps = np.abs(np.diff(page[..., 0], axis=0)).max()
    assert steps <= 1  # nowhere at once


@pytest.mark.parametrize("softness", [0, 10])
def test_a_shadow_has_the_stated_strength(softness):
    page = taken(shadow=0.4, softness=softness)
    assert (page.max(), page.min()) == (235, pytest.approx(235 * 0.6, abs=1))
    between = np.mean((page > 145) & (page < 230))
    assert between == 0 if softness == 0 else between > 0.05


def test_noise_has_the_stated_strength():
    page = taken(paper=(120, 120, 120), noise=10)
    assert page.std() == pytest.approx(10, rel=0.02)
    assert np.corrcoef(page[..., 0].ravel(), page[..., 1].ravel())[0, 1] < 0.02


def test_ruled_lines_have_the_stated_strength_and_spacing():
    page = taken(ruling="lines", line=0.3, spacing=24, line_width=2)
    assert page.min() == pytest.approx(235 - 0.3 * 195, abs=1)
    dark = (page[:, 0, 0] < 210).astype(int)
    starts = np.flatnonzero(np.diff(dark) == 1)
    np.testing.assert_allclose(np.diff(starts), 24, atol=1)


@pytest.mark.parametrize("pen", [3, 12])
def test_a_pen_has_the_stated_width(pen):
    page = taken(GLYPHS[1], pen=pen)  # a one: no crossings
    ink = (235 - page[..., 0]) / 195
    middle = thinned(ink > 0.5)
    length = np.hypot(*(np.ptp(np.nonzero(middle), axis=1) + 1))
    ends = np.pi / 4 * pen**2  # two half circles
    assert (ink.sum() - ends) / length == pytest.approx(pen, rel=0.15)


def test_thinning_leaves_lines_one_pixel_wide():
    bar = np.zeros((20, 30), bool)
    bar[8:13, 4:26] = True
    middle = thinned(bar)
    assert middle.sum(0).max() == 1
    assert set(np.nonzero(middle)[0]) == {10}
    assert np.ptp(np.nonzero(middle)[1]) >= 16


def test_others_are_cut_off_and_clear_of_the_digit():
    alone = taken(GLYPHS[0], size=140)
    page = taken(GLYPHS[0], size=140, neighbors=3)
    added = (alone - page)[..., 0] > 100
    edges = (added[0], added[-1], added[:, 0], added[:, -1])
    assert sum(edge.any() for edge in edges) == 3
    assert (alone[added] == 235).all()


def test_every_case_can_be_drawn_and_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES[::7]:
        photograph(case.scene, GLYPHS[0], GLYPHS, np.random.default_rng(0))
    for pages in no_digits(GLYPHS, 2, 0).values():
        assert [page.shape for page in pages] == [(SIDE, SIDE, 3)] * 2


def test_no_digit_is_both_tuned_on_and_reported():
    tuning, _ = photographs.digits("tuning", 1000)
    report, _ = photographs.digits("report", 200)
    assert (len(tuning.images), len(report.images)) == (1000, 200)
    known = {image.tobytes() for image in tuning.images}
    assert not known & {image.tobytes() for image in report.images}
    with pytest.raises(ValueError, match="count is 1001; expected 1 to 1000"):
        photographs.digits("report", 1001)


def test_measured_statistics_match_the_counts():
    pages = [taken(glyph, seed=i).astype(np.uint8) for i, glyph in enumerate(GLYPHS[:4])]
    pages.append(np.full_like(pages[0], 200))  # blank: doubtful, and not correct
    found = np.full((5, 10), 0.01)
    found[[0, 1, 2, 4], 3] = 0.9
    found[3, 3], found[3, 5] = 0.5, 0.4
    values = photographs.measured(pages, np.array([3, 3, 7, 3, 3]), lambda images: found)
    assert values["right"] == pytest.approx(60)
    assert values["doubted"] == pytest.approx(40)
    assert values["confident without doubt"] == pytest.approx(60)
    assert values["doubted of the wrong"] == pytest.approx(50)
    assert "right" not in photographs.measured(pages, None, lambda images: found)


def test_the_command_measures_and_writes_its_page(tmp_path, monkeypatch, capsys):
    def certain(images):
        return np.eye(10)[np.zeros(len(images), int)]

    monkeypatch.setattr(photographs, "network", lambda: certain)
    monkeypatch.setattr(photographs, "CASES", CASES[:2])
    flags = [f"--folder={tmp_path}"]
    photographs.main([*flags, "--count=3", "--seed=5", "--only", "even light", "a letter"])
    lines = [json.loads(x) for x in (tmp_path / "photographs.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == ["even light, paper 235, ink 40", "a letter"]
    for line in lines:
        assert line["options"] == {"count": 3, "seed": 5, "part": "report"} | {
            "network": photographs.NETWORK
        }
        assert {"device", "versions", "commit"} <= set(line)
    capsys.readouterr()
    page = tmp_path / "page.md"
    photographs.main([*flags, "--render", f"--page={page}"])
    text = page.read_text()
    right = f"{lines[0]['values']['right']:.1f}"
    assert lines[0]["values"]["right"] < photographs.GOAL  # so it stands out
    assert f"| even light | paper 235, ink 40 | **{right}** |" in text
    assert "| a letter | 3 of them |" in text
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
