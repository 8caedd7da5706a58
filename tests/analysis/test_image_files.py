"""A user's own digits."""

import numpy as np
import pytest
from PIL import Image

from stn_jax.analysis.image_files import read_digit
from stn_jax.data import sources
from stn_jax.data.sources import DataError


def test_a_photograph_becomes_an_mnist_digit(digit_file):
    digit = read_digit(digit_file)
    assert (digit.shape, digit.dtype) == ((28, 28, 1), np.uint8)
    original = sources.load("mnist_sample").test.images[3]
    correlation = np.corrcoef(digit.ravel(), original.ravel())[0, 1]
    assert correlation > 0.9
    rows, columns = np.nonzero(digit[..., 0] > 80)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in range(18, 21)


@pytest.mark.parametrize("how", ["light on dark", "transparent", "16 bits", "gray with alpha"])
def test_other_kinds_of_image_give_the_same_digit(digit_file, tmp_path, how):
    dark = Image.open(digit_file).convert("L")
    path = tmp_path / "other.png"
    values = np.asarray(dark)
    if how == "light on dark":
        Image.fromarray(255 - values).save(path)
    elif how == "transparent":
        black = np.zeros_like(values)
        Image.fromarray(np.stack([black, black, black, 255 - values], -1), "RGBA").save(path)
    elif how == "16 bits":
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    else:
        dark.convert("LA").save(path)
    difference = read_digit(path).astype(int) - read_digit(digit_file)
    assert np.abs(difference).mean() < 6


def test_what_is_no_picture_of_a_digit_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"none.png does not exist; expected an image file"):
        read_digit(tmp_path / "none.png")
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(DataError, match=r"text.png is not an image that can be read"):
        read_digit(text)
    blank = tmp_path / "blank.png"
    Image.new("L", (40, 40), 200).save(blank)
    with pytest.raises(DataError, match=r"blank.png shows nothing"):
        read_digit(blank)
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)).save(whole)
    torn = tmp_path / "torn.png"
    torn.write_bytes(whole.read_bytes()[:400])
    with pytest.raises(DataError, match=r"torn.png cannot be read as an image"):
        read_digit(torn)
    with pytest.raises(DataError, match=r"cannot be read as an image"):
        read_digit(tmp_path)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (50_000, 1_100)).save(path)
    with pytest.raises(DataError, match=r"huge.png has 50000x1100 pixels; expected at most 50 mil"):
        read_digit(path)
