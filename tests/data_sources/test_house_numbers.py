"""House numbers cut out of photographs."""

import jax
import numpy as np
import pytest

from stn_jax.data import house_numbers
from stn_jax.data.house_numbers import crop_number, labels_of, region


def test_labels_are_digits_and_then_no_digit():
    assert labels_of([3, 0, 9]).tolist() == [3, 0, 9, 10, 10]
    assert labels_of([1, 2, 3, 4, 5]).tolist() == [1, 2, 3, 4, 5]
    for digits in ([], [1] * 6, [10], [-1]):
        with pytest.raises(ValueError, match="expected 1 to 5, from 0 to 9"):
            labels_of(digits)


def test_the_region_is_the_box_around_all_grown_by_30_percent():
    boxes = np.array([[40, 20, 50, 60], [60, 30, 80, 70]])
    # 40 wide and 50 high: 6 and 7.5 more at each side.
    assert region(boxes, 200, 200) == pytest.approx((34, 12.5, 86, 77.5))
    # As far as there is image.
    assert region(boxes, 82, 72) == pytest.approx((34, 12.5, 82, 72))
    assert region(boxes - 38, 200, 200) == pytest.approx((0, 0, 48, 39.5))
    with pytest.raises(ValueError, match="are outside the image of 30x30"):
        region(boxes, 30, 30)


@pytest.mark.parametrize("scale", [0.3, 1, 4])
def test_resizing_is_that_of_jax_with_anti_aliasing(scale):
    rng = np.random.default_rng(0)
    height, width = int(80 * scale), int(120 * scale)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = np.array([[30, 20, 52, 60], [55, 22, 80, 61]]) * scale
    left, top, right, bottom = region(boxes, width, height)
    factor = np.array([64 / (bottom - top), 64 / (right - left)])
    expected = jax.image.scale_and_translate(
        image.astype(np.float32),
        (64, 64, 3),
        (0, 1),
        factor,
        -np.array([top, left]) * factor,
        method="linear",
        antialias=True,
    )
    ours = crop_number(image, boxes)
    assert ours.shape == (64, 64, 3)
    assert ours.dtype == np.uint8
    # Pillow rounds to whole values twice, after rows and after columns.
    assert np.abs(ours - np.asarray(expected)).max() < 1.5


def test_fine_detail_is_averaged_not_picked():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(crop_number(stripes, np.array([[60, 60, 340, 340]])).astype(int) - 127).max() <= 2


def test_the_classes_are_those_of_the_networks():
    from stn_jax.models import create_model

    head = create_model("svhn", "cnn").head
    assert (head.classes, head.positions) == (house_numbers.CLASSES, house_numbers.POSITIONS)
