"""Synthetic house numbers: labels as in SVHN, crops that show them, and what each setting does."""

import dataclasses
import io

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from stn_jax import street_numbers as street
from stn_jax.data import sources
from stn_jax.data.house_numbers import NONE, POSITIONS, SIDE, labels_of
from stn_jax.street_numbers import atlas, camera, digit_row, generate, scene, svhn_statistics
from stn_jax.street_numbers.generator_config import GeneratorConfig
from stn_jax.street_numbers.random_draws import RandomDraws
from tools import measure_svhn, street_sheet

COUNT = 16
KEYS = jax.random.split(jax.random.key(7), COUNT)
draw_all = jax.jit(jax.vmap(street.draw, (0, 0, None)))
draw_labels = jax.jit(jax.vmap(street.draw_labels))


@pytest.fixture(scope="module")
def labels():
    return draw_labels(KEYS)


@pytest.fixture(scope="module")
def clean(labels):
    """The crops with all config off."""
    return np.asarray(draw_all(KEYS, labels, GeneratorConfig.off()))


@pytest.fixture(scope="module")
def usual(labels):
    return np.asarray(draw_all(KEYS, labels, GeneratorConfig()))


# --- labels -----------------------------------------------------------------------------------


def test_lengths_and_digits_are_distributed_as_in_svhn():
    drawn = np.asarray(draw_labels(jax.random.split(jax.random.key(1), 40_000)))
    chex.assert_type(drawn, jnp.int32)
    there = drawn != NONE
    assert (np.diff(there.astype(int), axis=1) <= 0).all()  # nothing behind the last digit
    length = there.sum(1)
    counts = [sum(rows[0]) for rows in svhn_statistics.DIGITS]
    observed = np.bincount(length, minlength=6)[1:]
    pooled = [[*each[:3], sum(each[3:])] for each in (observed, counts)]
    assert chi_square(*pooled) > 1e-3
    assert counts == [5137, 18130, 8691, 1434, 9]
    for digits, rows in enumerate(svhn_statistics.DIGITS[:4], 1):
        for place, row in enumerate(rows):
            observed = np.bincount(drawn[length == digits, place], minlength=10)
            assert (observed[np.array(row) == 0] == 0).all()
            common = np.array(row) > 20
            assert chi_square(observed[common], np.array(row)[common]) > 1e-4, (digits, place)


def chi_square(observed, counts):
    """The probability of an observation at least as far from the counts' distribution."""
    expected = np.array(counts) / np.sum(counts) * np.sum(observed)
    return stats.chisquare(observed, expected).pvalue


@pytest.mark.slow
def test_the_tables_are_those_of_the_real_labels(svhn_dir):
    import gzip
    import json

    with gzip.open(svhn_dir / "number_labels.json.gz") as file:
        tables = measure_svhn.measure(json.load(file)["train"])
    for name, rows in tables.items():
        assert getattr(svhn_statistics, name) == rows


def test_measuring_a_few_numbers():
    def number(label, *boxes, size):
        return {"label": label, "boxes": boxes, "size": size}

    row = [[10 + 12 * place, 10, 20 + 12 * place, 30] for place in range(6)]
    numbers = {
        "1.png": number("7", [10, 6, 30, 46], size=[60, 52, 3]),
        "2.png": number("42", [10, 10, 20, 30], [24, 20, 34, 40], size=[60, 60, 3]),
        "3.png": number("123", *row[:3], size=[90, 31, 3]),
        "4.png": number("1234", *row[:4], size=[90, 60, 3]),
        "5.png": number("12345", *row[:5], size=[90, 60, 3]),
        "6.png": number("123456", *row, size=[90, 60, 3]),
    }
    tables = measure_svhn.measure(numbers)
    assert tables["DIGITS"][0] == ((0, 0, 0, 0, 0, 0, 0, 1, 0, 0),)
    assert [int(np.sum(rows)) for rows in tables["DIGITS"]] == [1, 2, 3, 4, 5]
    assert [heights[5] for heights in tables["HEIGHT"]] == [40, 20, 20, 20, 20]
    assert tables["SLOPE"][-1] == pytest.approx(np.degrees(np.arctan2(10, 14)), abs=0.05)
    assert tables["SLOPE"][0] == 0
    assert (tables["GAP"][0], tables["GAP"][-1]) == (2 / 20, 4 / 20)
    # Of a margin of 3 pixels 1 is there, below the third number.
    assert (tables["TOP"][0], tables["BOTTOM"][0]) == (1, 0.33)


@pytest.mark.slow
def test_the_cached_data_set_equals_the_rendered_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "KEPT_SPLITS", {"train": 16, "test": 16})
    kept = sources.load("street_numbers/30k", cache_dir=tmp_path)
    for split in ("train", "test"):
        drawn = street.make(split, 16, batch_size=16)
        np.testing.assert_array_equal(getattr(kept, split).images, drawn.images)
        np.testing.assert_array_equal(getattr(kept, split).labels, drawn.labels)
    assert "drawing street_numbers/30k, train: 16/16 images" in capsys.readouterr().err
    monkeypatch.setattr(generate, "_batch", None)  # from now on it is read
    again = sources.load("street_numbers/30k", cache_dir=tmp_path)
    np.testing.assert_array_equal(again.test.images, kept.test.images)
    assert kept.draw is None
    assert [sources.is_synthetic(name) for name in (kept.name, "street_numbers", "mnist")] == [
        True,
        True,
        False,
    ]


# --- drawing ----------------------------------------------------------------------------------


def test_shapes_types_and_range(usual, labels):
    assert usual.shape == (COUNT, SIDE, SIDE, 3)
    assert usual.dtype == np.float32
    assert usual.min() >= 0
    assert usual.max() <= 1
    # Not the same all over: a number can be seen.
    assert np.median(usual.std((1, 2, 3))) > 0.05
    shapes = jax.eval_shape(street.number, KEYS[0])
    assert (shapes.image.shape, shapes.labels.shape) == ((SIDE, SIDE, 3), (POSITIONS,))
    shapes = jax.eval_shape(lambda key: jax.vmap(jax.vmap(street.number))(key.reshape(4, 4)), KEYS)
    assert shapes.image.shape == (4, 4, SIDE, SIDE, 3)
    with pytest.raises(ValueError, match=r"labels have shape \(4,\); expected \(5,\)"):
        street.draw(KEYS[0], jnp.zeros(4, int))


@pytest.mark.slow
def test_a_crop_depends_on_its_key_and_labels_and_on_nothing_else(usual, labels):
    again = draw_all(KEYS, labels, GeneratorConfig())
    np.testing.assert_array_equal(again, usual)
    # In a batch of another order. XLA may round otherwise, and JPEG rounds to steps.
    reverse = draw_all(KEYS[::-1], labels[::-1], GeneratorConfig())[::-1]
    assert np.abs(reverse - usual).mean() < 1e-4
    other_keys = draw_all(jax.random.split(jax.random.key(8), COUNT), labels, GeneratorConfig())
    assert np.abs(other_keys - usual).mean((1, 2, 3)).min() > 0.01
    # The same scene with other digits: the same font, colors, ... but not the same crop.
    other_digits = draw_all(
        KEYS, jnp.where(labels < NONE, (labels + 1) % 10, NONE), GeneratorConfig.off()
    )
    same_digits = draw_all(KEYS, labels, GeneratorConfig.off())
    corner = np.abs(other_digits - same_digits)[:, 0, 0]
    np.testing.assert_allclose(corner, 0, atol=1e-6)
    assert np.abs(other_digits - same_digits).max((1, 2, 3)).min() > 0.1


def test_a_clean_crop_has_two_colors_and_its_box_where_it_should_be(clean, labels):
    edges = []
    for image in clean:
        ink = np.abs(image - image[0, 0]).max(-1)
        top = np.quantile(ink, 0.999)
        assert top > 0.15
        rows, columns = np.nonzero(ink > top / 2)
        edges.append([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
    # The box around the digits, grown by 30 % of its size, is the crop; a thin tip may be lost.
    low, high = SIDE * 0.15 / 1.3, SIDE * 1.15 / 1.3
    off = np.abs(np.array(edges) - [low, low, high, high]).max(1)
    assert off.max() < 4
    assert np.mean(off < 1.6) > 0.8


@pytest.mark.slow
@pytest.mark.slow
def test_template_matching_reads_clean_crops(clean, labels):
    right = [read(image, int((label < NONE).sum())) == label.tolist() for image, label in
             zip(clean, np.asarray(labels), strict=True)]  # fmt: skip
    assert np.mean(right) > 0.95


def read(image, count):
    """Reads a clean crop: cuts at gaps, then compares with all digits of all fonts."""
    gray = np.abs(image - image[0, 0]).max(-1)
    gray = gray / gray.max()
    columns, found = ndimage.label(gray.max(0) > 0.3)
    if found != count:
        return None
    digits, scores = [], []
    for each in range(1, found + 1):
        part = gray[:, columns == each]
        rows = np.nonzero(part.max(1) > 0.3)[0]
        part = part[rows[0] : rows[-1] + 1]
        scores.append([correlation(template, part) for template in templates()])
    # All digits are of one font.
    scores = np.array(scores).reshape(count, -1, 10)
    font = scores.max(-1).sum(0).argmax()
    digits = scores[:, font].argmax(-1)
    return labels_of(digits.tolist()).tolist()


_templates = []


def templates():
    """Every digit of every font as an image of its box, 24 x 16."""
    if not _templates:
        for digits, widths, heights in zip(*atlas.load(), strict=True):
            for distance, width, height in zip(digits, widths, heights, strict=True):
                half = np.array([height, width]) / 2 * atlas.HEIGHT
                middle = (atlas.CELL - 1) / 2
                rows = middle + np.linspace(-1, 1, 24) * half[0]
                columns = middle + np.linspace(-1, 1, 16) * half[1]
                at = np.meshgrid(rows, columns, indexing="ij")
                soft = ndimage.map_coordinates(distance, at, order=1)
                _templates.append(np.clip(soft * atlas.HEIGHT + 0.5, 0, 1))
    return _templates


def correlation(template, part):
    part = np.asarray(Image.fromarray(part).resize((16, 24), Image.Resampling.BILINEAR))
    return np.corrcoef(template.ravel() + 1e-6 * np.arange(384), part.ravel())[0, 1]


def test_distances_are_those_of_the_atlas():
    middle = jnp.full((digit_row.SLOTS, 2), digit_row.AWAY).at[0].set(jnp.array([0.5, -0.25]))
    glyphs = atlas.load()
    font, digit = 12, 4
    row = digit_row.Row(
        font=jnp.int32(font),
        digit=jnp.full(digit_row.SLOTS, digit),
        middle=middle,
        size=jnp.stack([jnp.full(digit_row.SLOTS, glyphs.width[font, digit]), jnp.ones(8)], -1),
        stretch=jnp.float32(1),
        tilt=jnp.zeros(digit_row.SLOTS),
        weight=jnp.float32(0.01),
    )
    offset = (np.arange(atlas.CELL) - (atlas.CELL - 1) / 2) / atlas.HEIGHT
    x, y = np.meshgrid(offset + 0.5, offset - 0.25)
    distance = digit_row.distance(row, jnp.stack([x, y], -1).astype(jnp.float32))
    np.testing.assert_allclose(distance, glyphs.distance[font, digit] + 0.01, atol=1e-5)
    # Tilted by a right angle and twice as wide: x runs down the digit's column.
    row = row._replace(tilt=jnp.full(digit_row.SLOTS, np.pi / 2), stretch=jnp.float32(2))
    x, y = np.meshgrid(-offset + 0.5, 2 * offset - 0.25)
    distance = digit_row.distance(row, jnp.stack([x, y], -1).astype(jnp.float32))
    np.testing.assert_allclose(distance.T, glyphs.distance[font, digit] + 0.01, atol=1e-4)


# --- config ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GeneratorConfig)])
def test_each_knob_does_something_more_of_it_does_more(name, clean, labels):
    half, full = (
        np.asarray(draw_all(KEYS, labels, GeneratorConfig.off(**{name: s}))) for s in (0.5, 1.0)
    )
    change, more = (np.abs(each - clean).mean() for each in (half, full))
    assert change > 3e-4
    assert more > 1.15 * change


@pytest.mark.slow
def test_the_effects_of_some_settings(clean, labels):
    def drawn(**strengths):
        return np.asarray(draw_all(KEYS, labels, GeneratorConfig.off(**strengths)))

    def spread(images):  # between the colors of a pixel
        return np.ptp(images, axis=-1)

    def detail(images):
        return np.abs(np.diff(images, axis=2)).max((1, 2, 3))

    assert spread(clean).max() < 1e-6
    assert np.median(spread(drawn(color=1.0)).mean((1, 2))) > 0.02
    assert np.mean(detail(drawn(blur=1.0)) < detail(clean)) > 0.9
    # Some are of as many pixels as the crop.
    fewer = detail(drawn(resolution=1.0)) - detail(clean)
    assert fewer.max() < 1e-3
    assert np.mean(fewer < -0.01) > 0.6
    noise = drawn(noise=1.0) - clean
    assert abs(noise.mean()) < 1e-3
    assert 0.004 < np.median(noise.std((1, 2, 3))) < 0.03


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_knob_that_cannot_be(value):
    with pytest.raises(ValueError, match=r"blur is .*; expected a finite number"):
        GeneratorConfig(blur=value)


def test_only_as_many_random_numbers_as_drawn_can_be_used():
    draws = RandomDraws(jax.random.key(0), 5)
    draws.uniform(shape=(4,))
    draws.happens(0.5)
    with pytest.raises(IndexError, match="6 random numbers asked for, 5 drawn"):
        draws.normal()


def test_random_numbers_are_of_the_distributions_that_they_say():
    draws = RandomDraws(jax.random.key(3), 9000)
    assert stats.kstest(np.asarray(draws.uniform(2, 5, (3000,))), "uniform", (2, 3)).pvalue > 0.01
    assert stats.kstest(np.asarray(draws.normal(2.0, (3000,))), "norm", (0, 2)).pvalue > 0.01
    assert chi_square(np.bincount(draws.integer(7, (2000,))), np.ones(7)) > 0.01
    assert float(draws.happens(0.3, (990,)).mean()) == pytest.approx(0.3, abs=0.05)


# --- the camera -------------------------------------------------------------------------------


class Fixed:
    """RandomDraws that always says the same."""

    def __init__(self, value):
        self.value = value

    def uniform(self, low, high):
        return jnp.float32(self.value)


@pytest.mark.parametrize("quality", [60, 90])
def test_compression_is_that_of_jpeg(usual, quality):
    compress = jax.jit(lambda image: camera.compress(Fixed(quality), image, GeneratorConfig()))
    apart = []
    for image in usual[:6]:
        # Of gray: libjpeg interpolates colors between pixels where we repeat them.
        exact = np.round(image @ scene.GRAY * 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(exact).save(buffer, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(buffer)).astype(float)
        ours = np.asarray(compress(jnp.tile(exact[..., None] / np.float32(255), 3)))
        assert np.ptp(ours, axis=-1).max() < 1e-5
        off = np.abs(np.round(ours[..., 0] * 255) - theirs)
        # Where the last bit of a transform differs, a coefficient may round the other way.
        assert np.mean(off <= 1) > 0.9
        apart.append(np.mean(off**2))
    # In steps of 8 bits, to which both are rounded. With steps as little as 10 % off it is 0.8.
    assert np.sqrt(np.mean(apart)) < 0.6


def test_enlarging_is_pillows(usual):
    image = usual[0]
    ours = camera.enlarge(image, jnp.array([3.0, 5.0]), jnp.array([40.5, 22.0]))
    for channel in range(3):
        theirs = Image.fromarray(image[..., channel]).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR, box=(3, 5, 43.5, 27)
        )
        np.testing.assert_allclose(ours[..., channel], theirs, rtol=0, atol=1e-5)


# --- sets -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_split_depends_on_its_name_the_seed_and_the_index_alone():
    # Without JPEG, whose rounding makes much of the last bit.
    config = dataclasses.replace(GeneratorConfig(), jpeg=0.0)
    train = street.make("train", 20, seed=3, batch_size=16, config=config)
    assert (train.images.shape, train.images.dtype) == ((20, SIDE, SIDE, 3), np.uint8)
    assert (train.labels.shape, train.labels.dtype) == ((20, POSITIONS), np.int32)
    assert not train.images.flags.writeable
    shorter = street.make("train", 7, seed=3, batch_size=16, config=config)
    np.testing.assert_array_equal(shorter.images, train.images[:7])
    np.testing.assert_array_equal(shorter.labels, train.labels[:7])
    for split, seed in (("test", 3), ("train", 4)):
        other = street.make(split, 16, seed=seed, batch_size=16, config=config)
        assert (np.abs(other.images.astype(int) - train.images[:16]).mean((1, 2, 3)) > 3).all()
    # In no batch.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), 5)
    alone = jax.jit(street.number)(key, config)
    np.testing.assert_array_equal(alone.labels, train.labels[5])
    assert np.abs(np.asarray(alone.image) * 255 - train.images[5]).max() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extra", 1), "split is 'extra'; expected one of train, test"),
        (("train", 0), "count is 0, batch_size 256; expected at least 1"),
    ],
)
def test_sets_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        street.make(*arguments)


def test_the_data_set_is_drawn_from_its_stored_digits():
    source = sources.load("street_numbers")
    assert (len(source.train.images), len(source.test.images)) == (235_754, 13_068)
    assert source.num_classes == 11
    np.testing.assert_array_equal(source.train.images, source.train.labels)
    assert source.train.images.dtype == np.uint8
    # Splits of their own, not one the beginning of the other.
    assert np.mean(source.train.labels[:13_068] == source.test.labels) < 0.9
    # Within what 96 crops say: a crop's mean spreads by 0.17.
    crops = street.make("train", 96, batch_size=16).images / 255
    assert np.abs(crops.mean((0, 1, 2)) - source.statistics[0]).max() < 3 * 0.17 / np.sqrt(96)
    assert np.abs(crops.std((0, 1, 2)) - source.statistics[1]).max() < 0.03
    drawn = jax.eval_shape(source.draw, KEYS, source.train.images[:COUNT])
    assert drawn.shape == (COUNT, SIDE, SIDE, 3)


# --- the sheet --------------------------------------------------------------------------------


def test_tiles_are_in_reading_order():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((SIDE, SIDE, 3), np.uint8)
    sheet_ = street_sheet.tile(images, 3)
    assert sheet_.shape == (2 * SIDE, 3 * SIDE, 3)
    assert sheet_[::SIDE, ::SIDE, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_measures_of_stripes():
    # Stripes of 4 pixels, from 51 to 153: a gradient of 0.4 at each of 15 edges of 63 differences.
    stripe = np.where(np.arange(SIDE) // 4 % 2, 153, 51).astype(np.uint8)
    images = np.tile(stripe[None, None, :, None], (2, SIDE, 1, 3))
    measured = street_sheet.measure(images)
    assert measured["red, mean"] == pytest.approx(0.4)
    assert measured["blue, deviation"] == pytest.approx(0.2)
    assert measured["saturation"] == pytest.approx(0)
    assert measured["contrast of the two shades"] == pytest.approx(0.4)
    assert measured["gradient across, rms"] == pytest.approx(0.4 * np.sqrt(15 / 63))
    assert measured["gradient down, rms"] == pytest.approx(0)
    bands = [measured[name][0] for name in measured if "cycles" in name]
    # The magnitude repeats every 4 pixels, 16 cycles a crop.
    assert np.argmax(bands) == 4
    assert bands[4] > 2 * max(bands[:4])  # the window lets some into the band below


def test_a_comparison_with_itself_and_with_another():
    rng = np.random.default_rng(0)
    dark, light = (rng.integers(low, low + 100, (12, SIDE, SIDE, 3), np.uint8) for low in (0, 155))
    assert all(
        line.endswith("| 0.00 |") for line in street_sheet.compare(dark, dark).splitlines()[2:]
    )
    assert "| 1.00 |" in street_sheet.compare(dark, light).splitlines()[2]


@pytest.mark.slow
def test_real_crops_are_those_of_the_archives(svhn_dir):
    crops = street_sheet.real_crops(svhn_dir)
    assert crops.shape == (384, SIDE, SIDE, 3)
    assert crops.dtype == np.uint8
