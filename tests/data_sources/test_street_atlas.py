"""The atlas of digits: what is in it, and what it was drawn from."""

import pathlib

import numpy as np
import pytest

from stn_jax.street_numbers import atlas, fonts
from tools import draw_atlas

LICENSES = {
    "OFL-1.0",
    "OFL-1.1",
    "OFL-1.1 or BSD-3-Clause",
    "Apache-2.0",
    "BSD-3-Clause",
    "MIT",
    "GUST Font License",
    "Bitstream Vera License",
    "public domain",
}


def test_every_font_has_a_package_and_an_open_license():
    listed = fonts()
    assert len(listed) == len(atlas.load().distance) > 60
    assert len({font.file for font in listed}) == len(listed)
    assert {font.license for font in listed} == LICENSES
    assert all(font.package.startswith("fonts-") for font in listed)
    assert atlas.ATLAS.stat().st_size < 300_000


def test_every_digit_is_centered_in_its_cell_with_the_stated_size():
    glyphs = atlas.load()
    assert glyphs.distance.shape == (len(fonts()), 10, atlas.CELL, atlas.CELL)
    assert np.abs(glyphs.distance).max() <= atlas.REACH * 1.0001
    assert glyphs.height.max(1) == pytest.approx(1)
    for digits, widths, heights in zip(*glyphs, strict=True):
        for distance, width, height in zip(digits, widths, heights, strict=True):
            # Half a sample's distance outside counts: thin strokes may miss all samples.
            rows, columns = np.nonzero(distance > -0.5 / atlas.HEIGHT)
            assert len(rows) > 10
            for index, size in ((rows, height), (columns, width)):
                low, high = index.min(), index.max()
                assert abs(low + high - (atlas.CELL - 1)) <= 2
                assert abs((high - low) / atlas.HEIGHT - size) <= 2.1 / atlas.HEIGHT
            assert distance[[0, -1]].max() < 0
            assert distance[:, [0, -1]].max() < 0


def test_no_two_digits_of_a_font_and_no_two_fonts_are_the_same():
    distance = atlas.load().distance
    flat = distance.reshape(len(distance), 10, -1)
    for digits in flat:
        apart = np.abs(digits[:, None] - digits).max(-1)
        assert apart[~np.eye(10, dtype=bool)].min() > 0.02
    assert len({font.tobytes() for font in flat}) == len(flat)


def test_writing_and_reading_rounds_to_a_step(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    distance = rng.uniform(-0.3, 0.3, (2, 10, atlas.CELL, atlas.CELL)).astype(np.float32)
    sizes = rng.uniform(0.3, 1, (2, 2, 10)).astype(np.float32)
    atlas.save(tmp_path / "atlas.npz", atlas.Atlas(distance, *sizes))
    monkeypatch.setattr(atlas, "ATLAS", tmp_path / "atlas.npz")
    read = atlas.load.__wrapped__()
    step = 2 * atlas.REACH / atlas.LEVELS
    np.testing.assert_allclose(
        read.distance, distance.clip(-atlas.REACH, atlas.REACH), rtol=0, atol=step / 2 * 1.001
    )
    np.testing.assert_array_equal(read.width, sizes[0])
    np.testing.assert_array_equal(read.height, sizes[1])


def test_a_font_file_gives_what_is_in_the_atlas():
    import matplotlib

    file = "DejaVuSans-Bold.ttf"
    path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file
    distance, width, height = draw_atlas.draw_font(path)
    index = [font.file for font in fonts()].index(file)
    glyphs = atlas.load()
    # Another release of FreeType may draw by a fraction of a sample differently.
    expected = distance.clip(-atlas.REACH, atlas.REACH)
    np.testing.assert_allclose(glyphs.distance[index], expected, rtol=0, atol=0.01)
    np.testing.assert_allclose(glyphs.width[index], width, atol=0.01)
    np.testing.assert_allclose(glyphs.height[index], height, atol=0.01)


def test_a_distance_is_that_to_the_outline():
    # A bar of 20 x 80 pixels, of which 80 are a height: closed form.
    distance = draw_atlas.distance_of(np.ones((80, 20), bool), 80)
    offset = (np.arange(atlas.CELL) - (atlas.CELL - 1) / 2) / atlas.HEIGHT
    x, y = np.abs(offset[None, :]) - 0.125, np.abs(offset[:, None]) - 0.5
    expected = np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0)
    np.testing.assert_allclose(distance, -expected, rtol=0, atol=0.009)


def test_a_missing_font_is_named_with_its_package(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"texgyreheros-regular.otf is not in .*texgyre"):
        draw_atlas.draw(tmp_path)
