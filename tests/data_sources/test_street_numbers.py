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
from stn_jax.data.house_numbers import NONE, POSITIONS, SIDE, labels_of
from stn_jax.street_numbers import atlas, camera, digit_row, scene, svhn_statistics
from stn_jax.street_numbers.generator_config import GeneratorConfig
from stn_jax.street_numbers.random_draws import RandomDraws

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


@pytest.mark.thin("layout", "perspective", "clutter", "blur", "color")
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
    assert (
        stats.kstest(np.asarray(draws.uniform(2, 5, (3000,))), stats.uniform(2, 3).cdf).pvalue
        > 0.01
    )
    assert stats.kstest(np.asarray(draws.normal(2.0, (3000,))), stats.norm(0, 2).cdf).pvalue > 0.01
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
