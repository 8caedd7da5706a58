"""Charts as inline SVG: well formed, in their frame, with round numbers at the axes."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from stn_jax.report.charts import density, frame, lines, number, png

finite = st.floats(-1e12, 1e12)
anything = finite | st.sampled_from([np.nan, np.inf, -np.inf])
series = st.lists(
    st.lists(st.tuples(st.floats(0, 1e6), anything), max_size=5), min_size=1, max_size=3
)


@given(series, st.booleans())
@example([[(0.0, 5e-324)]], True)
@example([[(0.0, 5e-324)]], False)
@example([[(5e-324, 1.0), (0.0, 2e-300)]], True)
def test_any_numbers_give_a_chart_within_its_frame(series, log):
    text = lines(series, label="a chart", log=log)
    root = ElementTree.fromstring(text)
    if not any(np.isfinite(y) for each in series for _, y in each):
        assert "no finite values" in text
        return
    _, _, width, height = map(float, root.get("viewBox").split())
    curves = [e.get("d") for e in root.iter("path") if e.get("class") == "curve"]
    places = [tuple(map(float, p.split())) for d in curves for p in d[1:].split("L")]
    places += [(float(e.get("cx")), float(e.get("cy"))) for e in root.iter("circle")]
    assert all(0 <= x <= width and -0.1 <= y <= height for x, y in places)


def test_points_are_where_the_axis_says():
    for log in (False, True):
        root = ElementTree.fromstring(lines([[(0, 20), (1, 60)]], label="", log=log))
        marks = {
            float(e.text): float(e.get("y")) - 4
            for e in root.iter("text")
            if e.get("class") == "end"
        }
        scale = np.log if log else lambda x: x
        (curve,) = (e.get("d") for e in root.iter("path") if e.get("class") == "curve")
        drawn = [float(p.split()[1]) for p in curve[1:].split("L")]
        (low, bottom), (high, top) = min(marks.items()), max(marks.items())
        share = (scale(np.array([20, 60])) - scale(low)) / (scale(high) - scale(low))
        np.testing.assert_allclose(drawn, bottom + share * (top - bottom), atol=0.11)


def test_a_density_is_a_histogram_with_its_line():
    x = np.array([-60.0, 30, 30, 200])
    text = density(x, -x, limit=75, line=(-1.0, 0.0), labels=("x", "y"), label="angles")
    root = ElementTree.fromstring(text)
    data = next(root.iter("image")).get("href").partition(",")[2]
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3]
    # 75 cells of two degrees; rows from the top.
    rows, columns = np.nonzero(alpha)
    assert sorted(zip(rows, columns, strict=True)) == [(7, 7), (52, 52)]
    assert alpha[52, 52] > alpha[7, 7]


def test_texts_stand_in_charts_as_they_are():
    hostile = "</svg><script>alert(1)</script> \"a\" & 'b' {{ c }} &amp;"
    angles = np.arange(3.0)
    charts = [
        (lines([[(0, 1), (1, 2)]], label=hostile), 1),
        (density(angles, angles, limit=9, line=(1, 0), labels=(hostile,) * 2, label=hostile), 3),
        (frame(angles, (0.0, 1.0), angles, label=hostile, decimals=0), 1),
    ]
    for chart, count in charts:
        root = ElementTree.fromstring(chart)
        texts = [root.get("aria-label"), *(each.text for each in root.iter("text"))]
        assert texts.count(hostile) == count
        assert "script" not in {each.tag for each in root.iter()}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_holds_the_picture(channels):
    picture = np.random.default_rng(0).random((5, 7, channels))
    kind, _, data = png(picture).partition(",")
    assert kind == "data:image/png;base64"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).reshape(picture.shape)
    np.testing.assert_allclose(found / 255, picture, atol=0.5 / 255 + 1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (100.0, "100"), (0.25, "0.25"), (1e-5, "1e-5"), (2.5e7, "2.5e7"), (-45, "-45")],
)
def test_numbers_at_an_axis_are_short(value, text):
    assert number(value) == text
    assert re.fullmatch(r"-?[\d.]+(e-?\d+)?", number(value * 1.0000001))
