"""Digits out of photographs: constructed pages whose ink, boxes and doubts are known."""

import contextlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from stn_jax.data import sources
from stn_jax.data.photographs import find_digit, read_digit, read_number, read_picture
from stn_jax.data.photographs.digits import to_mnist_format
from stn_jax.data.photographs.ink import find_ink
from stn_jax.data.photographs.marks import main_mark
from stn_jax.data.sources import DataError

SIDE = 120
BOX = (40, 30, 80, 90)  # left, top, right, bottom of the seven below
ROWS, COLUMNS = np.indices((SIDE, SIDE)) / (SIDE - 1)


def seven(page=None, at=(30, 40), ink=(40, 40, 40), size=60):
    """Writes a 7 of two bars, ``size`` high, on a page, as far as it is on it; a new one of 235."""
    page = np.full((SIDE, SIDE, 3), 235, np.uint8) if page is None else page
    rows, columns = np.indices(page.shape[:2]) - np.reshape(at, (2, 1, 1))
    bar, width = max(1, size * 2 // 15), size * 2 // 3
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < width)
    page[inside & ((rows < bar) | (columns >= width - bar))] = ink
    return page


def lit(page, light):
    return np.round(page * np.asarray(light)[..., None]).astype(np.uint8)


def difference(pixels, expected=None):
    """The mean difference from what is read of a plain page, of 255, wherever the middle falls."""
    expected = find_digit(seven()).image if expected is None else expected
    found = find_digit(pixels).image.astype(int)
    moves = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    return min(np.abs(np.roll(found, move, (0, 1)) - expected).mean() for move in moves)


# --- ink -----------------------------------------------------------------------------------------


def test_ink_strength_is_a_fraction_of_the_background():
    ink = find_ink(seven())
    written = seven()[..., 0] == 40
    np.testing.assert_allclose(ink.strength[written], 195 / 235, rtol=1e-5)
    np.testing.assert_allclose(ink.strength[~written], 0, atol=1e-6)
    assert ink.noise == 0


LIGHTS = {
    "falls off by 50 %": 1 - 0.5 * COLUMNS,
    "falls off by 80 %, askew": 1 - 0.8 * (COLUMNS + ROWS) / 2,
    "a hard shadow": 1 - 0.4 * (COLUMNS + 0.3 * ROWS > 0.6),
    "a dim room": np.full((SIDE, SIDE), 0.3),
}


@pytest.mark.parametrize("name", LIGHTS)
def test_illumination_is_not_ink(name):
    written = seven()[..., 0] == 40
    strength = find_ink(lit(seven(), LIGHTS[name])).strength
    inside = strength[20:100, 20:100]
    # Where a border is darker than what is beside it, some of that counts as ink; in the corner
    # between ink and the edge of a shadow, the shadow does.
    np.testing.assert_allclose(strength[written], 195 / 235, atol=0.12)
    assert np.mean(inside[~written[20:100, 20:100]] > 0.04) < 0.01
    assert strength[~written].max() < 0.45
    assert difference(lit(seven(), LIGHTS[name])) < 3


@pytest.mark.parametrize(
    ("paper", "ink"),
    [
        ((240, 220, 120), (30, 40, 150)),
        ((250, 190, 190), (190, 40, 50)),
        ((235, 235, 235), (235, 210, 60)),
        ((90, 110, 200), (200, 110, 90)),  # as bright, in one channel lighter and in one darker
        ((50, 80, 60), (220, 220, 210)),
        ((0, 0, 0), (255, 255, 255)),
    ],
)
def test_paper_and_ink_have_any_color(paper, ink):
    page = np.full((SIDE, SIDE, 3), paper, np.uint8)
    assert difference(seven(page, ink=ink)) < 3


def test_noise_is_measured_and_is_not_ink():
    rng = np.random.default_rng(0)
    noisy = np.clip(seven() + rng.normal(0, 15, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
    ink = find_ink(noisy.repeat(3, -1) if noisy.shape[-1] == 1 else noisy)
    written = seven()[..., 0] == 40
    assert 0.005 < ink.noise < 0.05
    assert np.median(ink.strength[written]) > 0.6
    assert np.mean(ink.strength[~written] > 6 * ink.noise) < 0.02
    assert difference(noisy) < 8


# --- marks ---------------------------------------------------------------------------------------


def test_the_digit_is_where_it_was_written():
    reading = find_digit(seven())
    assert reading.box == BOX
    assert reading.doubts == ()
    assert (reading.image.shape, reading.image.dtype) == ((28, 28, 1), np.uint8)
    rows, columns = np.nonzero(reading.image[..., 0] > 100)
    assert np.ptp(rows) + 1 in (19, 20)
    assert np.ptp(columns) + 1 in (13, 14)


def test_of_a_large_photograph_the_box_is_in_its_own_pixels():
    large = seven().repeat(14, 0).repeat(14, 1)  # 1,680 pixels, scaled down to be read
    np.testing.assert_allclose(find_digit(large).box, 14 * np.array(BOX), atol=28)
    assert difference(large) < 4


@pytest.mark.parametrize("size", [15, 30, 75, 90])
def test_digits_of_all_sizes_are_the_same_digit(size):
    assert difference(seven(size=size, at=(20, 20))) < 9


def ruled(squares=False, shade=175):
    page = np.full((SIDE, SIDE, 3), 235, np.uint8)
    page[5::12] = shade
    if squares:
        page[:, 5::12] = shade
    return page


def speckled():
    page = seven()
    page[8, 110] = page[112:114, 3:5] = 20
    return page


def beside(at, size):
    return seven(seven(), at=at, size=size)


@pytest.mark.parametrize(
    "page",
    [
        *(seven(ruled()), seven(ruled(squares=True)), seven(ruled(shade=140)), speckled()),
        *(beside((5, 92), 15), beside((95, 5), 20), beside((-40, 20), 60), beside((70, 100), 60)),
    ],
    ids=[
        "lines",
        "squares",
        "dark lines",
        "specks",
        "mark",
        "mark below",
        "cut off",
        "cut off too",
    ],
)
def test_other_marks_around_a_digit_are_ignored(page):
    assert difference(page) < 7
    assert np.abs(np.array(find_digit(page).box) - BOX).max() <= 2


def test_parts_of_a_digit_belong_together():
    page = seven()
    page[38:43, 72:80] = 235  # a gap between the bar and the stroke
    page[66:71, 72:80] = 235  # and another, in the stroke
    reading = find_digit(page)
    assert reading.box == BOX
    assert reading.doubts == ()
    columns = reading.image[..., 0].max(1) > 100
    assert np.sum(np.diff(columns.astype(int)) == 1) == 3


def test_a_mark_of_the_same_size_is_another_digit():
    reading = find_digit(seven(seven(at=(30, 15)), at=(30, 64)))
    assert reading.box in ((15, 30, 55, 90), (64, 30, 104, 90))
    assert any("several marks" in doubt for doubt in reading.doubts)


def test_strokes_are_drawn_as_wide_as_mnists():
    widths = {}
    for bar in (1, 2, 6, 14):
        page = np.full((SIDE, SIDE, 3), 235, np.uint8)
        page[20:100, 50 : 50 + bar] = 40
        page[20 : 20 + bar, 50:90] = 40
        given = find_digit(page).image[..., 0]
        widths[bar] = given[14:22].sum(1).mean() / 255
    # 80 pixels become 20: bars of 14 are 3.5 pixels wide, and thin ones no thinner than 2.5.
    np.testing.assert_allclose(list(widths.values()), [2.5, 2.5, 2.5, 3.5], atol=0.6)


def _doubtful_pages():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    patch = np.full((SIDE, SIDE, 3), 235, np.uint8)
    patch[45:72, 45:75] = 40
    faint = seven(ink=(228, 228, 228))
    return {
        "no digit stands out": [ruled(squares=True) - noise // 16, faint],
        "a patch rather than strokes": [patch],
        "several marks of similar size": [seven(seven(at=(30, 15)), at=(30, 75))],
        "touches the image's border": [seven(at=(60, 40)), seven(at=(0, 0), size=100)],
    }


@pytest.mark.parametrize(
    ("doubt", "page"), [(d, page) for d, pages in _doubtful_pages().items() for page in pages]
)
def test_doubts_about_a_reading_are_reported(doubt, page):
    assert any(doubt in said for said in find_digit(page).doubts)


def test_nothing_stands_out_from_noise():
    rng = np.random.default_rng(0)
    for sigma in (2, 12, 40, 120):
        noise = np.clip(200 + rng.normal(0, sigma, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        reading = find_digit(noise)
        assert reading is None or "no digit stands out from the page" in reading.doubts


def test_whole_images_of_mnist_are_read_as_they_are():
    images = sources.load("mnist_sample").test.images[:100]
    same = [np.corrcoef(find_digit(x.repeat(3, -1)).image.ravel(), x.ravel())[0, 1] for x in images]
    assert np.mean(np.array(same) > 0.75) > 0.95
    assert np.median(same) > 0.93


@pytest.mark.parametrize("side", [8, 28, 40])
def test_the_network_may_see_images_of_another_side(side):
    ink = find_ink(seven())
    image = to_mnist_format(ink.strength, main_mark(ink), side)
    assert image.shape == (side, side, 1)
    rows, _, _ = np.nonzero(image > 100)
    assert abs(np.ptp(rows) + 1 - min(20, side * 20 / 28)) <= 1


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [65_535, 0])
def test_a_broken_pixel_does_not_hide_the_rest_of_a_16_bit_picture(tmp_path, value):
    page = seven()[..., 0].astype(np.uint16) * 40 + 20_000
    page[3, 3] = value
    Image.fromarray(page).save(tmp_path / "deep.png")
    read = read_picture(tmp_path / "deep.png")[..., 0]
    assert (read[60, 50], read[60, 78]) == (255, 0)
    assert difference(read_picture(tmp_path / "deep.png")) < 3


@pytest.mark.parametrize("shade", [0, 255])
def test_drawings_on_a_transparent_background_are_visible(tmp_path, shade):
    drawn = 255 * (seven()[..., :1] == 40).astype(np.uint8)
    rgba = np.concatenate([np.full((SIDE, SIDE, 3), shade, np.uint8), drawn], -1)
    Image.fromarray(rgba).save(tmp_path / "drawn.png")
    assert difference(read_picture(tmp_path / "drawn.png")) < 3


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@example(shape=(7, 37), seed=11516, kind="two levels")  # a mark that touches no border
@given(
    shape=st.one_of(SHAPES, st.sampled_from([(1, 1), (1, 3000), (3000, 1), (2, 2)])),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["constant", "noise", "two levels", "one pixel", "gradient", "colors"]),
)
def test_any_picture_gives_a_digit_or_nothing(shape, seed, kind):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 256, 2))
    page = np.full((*shape, 3), low, np.uint8)
    if kind == "noise":
        page[:] = rng.integers(low, high + 1, (*shape, 1))
    elif kind == "two levels":
        page[rng.random(shape) < rng.random()] = high
    elif kind == "one pixel":
        page[rng.integers(shape[0]), rng.integers(shape[1])] = high
    elif kind == "gradient":
        page[:] = np.linspace(low, high, shape[1])[:, None]
    elif kind == "colors":
        page[:] = rng.integers(0, 256, page.shape)
    reading = find_digit(page)
    if kind == "constant":
        assert reading is None
    if reading is not None:
        assert (reading.image.shape, reading.image.dtype) == ((28, 28, 1), np.uint8)
        assert reading.image.max() > 0
        left, top, right, bottom = reading.box
        assert 0 <= left < right <= shape[1]
        assert 0 <= top < bottom <= shape[0]
        if min(shape) < 8:
            assert reading.doubts


@given(
    shape=SHAPES,
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["16 bits", "floats", "NaN", "infinite", "huge", "transparent", "alpha"]),
)
def test_any_file_gives_a_digit_or_the_documented_error(tmp_path_factory, shape, seed, kind):
    rng = np.random.default_rng(seed)
    values = rng.random(shape, np.float32)
    path = tmp_path_factory.mktemp("hostile") / "picture.tif"
    if kind == "16 bits":
        values = (values * rng.choice([3, 4095, 65535])).astype(np.uint16)
    elif kind in ("NaN", "infinite"):
        values[rng.integers(shape[0]), rng.integers(shape[1])] = (
            np.nan if kind == "NaN" else rng.choice([-np.inf, np.inf])
        )
    elif kind == "huge":
        values = values * np.float32(3e38)
    elif kind in ("transparent", "alpha"):
        path = path.with_suffix(".png")
        values = rng.integers(0, 256, (*shape, 4), np.uint8)
        values[..., 3] *= kind == "alpha"
    Image.fromarray(values).save(path)
    wrong = kind in ("NaN", "infinite")
    if wrong or kind == "transparent":
        with pytest.raises(DataError, match="not finite" if wrong else "is blank"):
            read_digit(path)
        return
    with contextlib.suppress(DataError):
        assert read_digit(path).image.max() > 0


# --- house numbers -------------------------------------------------------------------------------


def test_doubts_about_a_house_number(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "house.png"

    def doubts(pixels, box=None):
        Image.fromarray(pixels).save(path)
        return read_number(path, box).doubts

    clear = rng.integers(0, 256, (60, 90, 3), np.uint8)
    assert doubts(clear) == doubts(clear, (10, 10, 80, 50)) == ()
    assert doubts(clear, (10, 10, 30, 15)) == ("it is only 5 pixels high",)
    (hazy,) = doubts(np.full((60, 90, 3), 120, np.uint8) + clear // 40)
    assert "no digit stands out" in hazy
    (whole,) = doubts(rng.integers(0, 256, (300, 800, 3), np.uint8).repeat(20, 0)[:400])
    assert "set its location with --box" in whole


def test_the_box_of_a_house_number_is_the_cropped_region(tmp_path):
    path = tmp_path / "house.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    # Grown by 15 % on all sides.
    np.testing.assert_allclose(read_number(path, (20, 20, 60, 40)).box, (14, 17, 66, 43))
    assert read_number(path).box == (0, 0, 90, 60)
    assert read_number(path).shape == (60, 90)
