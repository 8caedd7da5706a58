"""Sets of synthetic house numbers, the measured tables that they follow, and the sheet of crops."""

import dataclasses

import jax
import numpy as np
import pytest

from stn_jax import street_numbers as street
from stn_jax.data import sources
from stn_jax.data.house_numbers import POSITIONS, SIDE
from stn_jax.street_numbers import generate, svhn_statistics
from stn_jax.street_numbers.generator_config import GeneratorConfig
from tools import measure_svhn, street_sheet

# --- the measured tables ------------------------------------------------------------------------


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


# --- sets -------------------------------------------------------------------------------------


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


@pytest.mark.slow
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
    drawn = jax.eval_shape(
        source.draw, jax.random.split(jax.random.key(0), 16), source.train.images[:16]
    )
    assert drawn.shape == (16, SIDE, SIDE, 3)


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
