"""A user's own digits and house numbers."""

import os

import numpy as np
import pytest
from PIL import Image

from stn_jax.data import house_numbers, photographs, sources
from stn_jax.data.sources import DataError


def read_digit(path):
    return photographs.read_digit(path).image


def read_number(path, box=None):
    return photographs.read_number(path, box).image


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


def test_an_image_without_a_digit_is_rejected_by_name(tmp_path):
    with pytest.raises(DataError, match=r"none.png does not exist; expected an image file"):
        read_digit(tmp_path / "none.png")
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(DataError, match=r"text.png is not a readable image"):
        read_digit(text)
    blank = tmp_path / "blank.png"
    Image.new("L", (40, 40), 200).save(blank)
    with pytest.raises(DataError, match=r"blank.png is blank"):
        read_digit(blank)
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)).save(whole)
    torn = tmp_path / "torn.png"
    torn.write_bytes(whole.read_bytes()[:400])
    with pytest.raises(DataError, match=r"torn.png cannot be read as an image"):
        read_digit(torn)
    with pytest.raises(DataError, match=r"cannot be read as an image"):
        read_digit(tmp_path)


def test_a_huge_picture_is_rejected_before_it_is_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (50_000, 1_100)).save(path)
    with pytest.raises(DataError, match=r"huge.png has 50000x1100 pixels; expected at most 50 mil"):
        read_digit(path)


def drawn(width=60, height=60, ground=230):
    """A page with the digit 7 on it, gray, dark on light: its bars are the stated ones."""
    page = np.full((height, width), ground, np.uint8)
    top, left = height // 4, width // 4
    page[top : top + 5, left : left + 24] = 20
    page[top : top + 30, left + 19 : left + 24] = 20
    return page


def save_as(how, page, path):
    """Saves a page in another way; gives the file's path."""
    gray = Image.fromarray(page)
    if how == "animated gif":
        other = Image.fromarray(np.rot90(page).copy())
        path = path.with_suffix(".gif")
        gray.save(path, save_all=True, append_images=[other, other], duration=50)
    elif how == "animated png":
        gray.save(path, save_all=True, append_images=[Image.fromarray(np.rot90(page).copy())])
    elif how == "animated webp":
        path = path.with_suffix(".webp")
        turned = Image.fromarray(np.rot90(page).copy())
        gray.save(path, save_all=True, append_images=[turned], lossless=True)
    elif how == "several tiff pages":
        path = path.with_suffix(".tif")
        gray.save(path, save_all=True, append_images=[Image.fromarray(np.rot90(page).copy())])
    elif how == "16-bit tiff":
        path = path.with_suffix(".tif")
        Image.fromarray(page.astype(np.uint16) * 257).save(path)
    elif how == "32-bit integers":
        path = path.with_suffix(".tif")
        Image.fromarray(page.astype(np.int32) * 100_000).save(path)
    elif how == "floats":
        path = path.with_suffix(".tif")
        Image.fromarray(page.astype(np.float32) / 255).save(path)
    elif how == "palette with transparency":
        clear = gray.point(lambda v: 255 if v > 100 else 0).convert("P")
        clear.save(path, transparency=255)
    elif how == "cmyk jpeg":
        path = path.with_suffix(".jpg")
        gray.convert("CMYK").save(path, quality=100)
    elif how == "bilevel":
        gray.convert("1", dither=Image.Dither.NONE).save(path)
    elif how == "camera held on its side":
        exif = Image.Exif()
        exif[0x0112] = 6  # turn clockwise to see it upright
        path = path.with_suffix(".jpg")
        Image.fromarray(np.rot90(page).copy()).save(path, exif=exif, quality=95)
    elif how == "wrong suffix":
        path = path.with_suffix(".jpg")
        gray.save(path, "PNG")
    return path


@pytest.mark.parametrize(
    "how",
    [
        *("animated gif", "animated png", "animated webp", "several tiff pages", "16-bit tiff"),
        *("32-bit integers", "floats", "palette with transparency", "cmyk jpeg", "bilevel"),
        *("camera held on its side", "wrong suffix"),
    ],
)
def test_odd_files_show_the_digit_that_a_plain_one_shows(tmp_path, how):
    page = drawn()
    plain = tmp_path / "plain.png"
    Image.fromarray(page).save(plain)
    expected = read_digit(plain).astype(int)
    found = read_digit(save_as(how, page, tmp_path / "odd.png"))
    assert expected[..., 0].max() == 255
    assert np.abs(found - expected).mean() < 4
    # Not that of a turned page.
    Image.fromarray(np.rot90(page).copy()).save(plain)
    assert np.abs(found - read_digit(plain).astype(int)).mean() > 20


@pytest.mark.slow
def test_a_strip_50_000_pixels_wide_is_read_and_a_square_of_them_rejected(tmp_path):
    strip = np.full((40, 50_000), 255, np.uint8)
    strip[5:35, 25_000:25_010] = 0
    path = tmp_path / "strip.png"
    Image.fromarray(strip).save(path)
    digit = read_digit(path)[..., 0]
    rows, columns = np.nonzero(digit > 100)
    assert np.ptp(rows) + 1 == 20
    assert np.ptp(columns) + 1 in (6, 7, 8)
    for height, message in (
        (2_000, "50000x2000 pixels; expected at most 50"),
        (8_000, "decompres"),
    ):
        square = tmp_path / "square.png"
        Image.new("1", (50_000, height)).save(square)
        with pytest.raises(DataError, match=message) as caught:
            read_digit(square)
        assert "\n" not in str(caught.value)


def test_pixels_that_are_no_numbers_are_rejected(tmp_path):
    path = tmp_path / "nan.tif"
    page = drawn().astype(np.float32)
    page[0, 0] = np.nan
    Image.fromarray(page).save(path)
    with pytest.raises(DataError, match=r"nan.tif cannot be read .* not finite"):
        read_digit(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe.png cannot be read as an image: not a file"):
        read_digit(tmp_path / "pipe.png")


def test_a_file_that_pillow_would_hand_to_another_program_is_rejected(tmp_path):
    path = tmp_path / "digit.eps"
    Image.fromarray(drawn()).save(path)
    with pytest.raises(DataError, match=r"digit.eps is not a readable image"):
        read_digit(path)


# --- house numbers -------------------------------------------------------------------------------


def photograph(path, width=90, height=60, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def test_a_box_is_cut_out_as_the_task_does(tmp_path):
    pixels = photograph(tmp_path / "house.png")
    found = read_number(tmp_path / "house.png", (20, 10, 60, 40))
    expected = house_numbers.crop_number(pixels, np.array([[20, 10, 60, 40]]))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (64, 64, 3)


def test_without_a_box_the_whole_picture_is_the_number(tmp_path):
    pixels = photograph(tmp_path / "house.png", 64, 64)
    np.testing.assert_array_equal(read_number(tmp_path / "house.png"), pixels)


def test_a_box_is_counted_from_the_corner_of_the_photograph_as_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, as a camera held upright says
    pixels = photograph(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(pixels, -1)
    found = read_number(tmp_path / "turned.png", (5, 10, 55, 80))
    expected = house_numbers.crop_number(upright, np.array([[5, 10, 55, 80]]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "box", [(20, 10, 20, 40), (20, 10, 91, 40), (-1, 0, 5, 5), (60, 10, 20, 40), (np.nan, 1, 5, 5)]
)
def test_a_box_outside_the_photograph_is_rejected(tmp_path, box):
    photograph(tmp_path / "house.png")
    with pytest.raises(DataError, match=r"box is .* expected left < right .* has 90x60 pixels"):
        read_number(tmp_path / "house.png", box)
