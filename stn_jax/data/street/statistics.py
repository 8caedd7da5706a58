"""How SVHN's house numbers are distributed: counts and quantiles, the only thing taken from them.

Taken from the labels and boxes of the 33,402 training images, of which one, with six digits, is
left out. ``python -m stn_jax.data.street.statistics FILE`` measures again; FILE is a gzipped JSON
object ``{"train": {name: {"label": "19", "boxes": [[left, top, right, bottom], ...], "size":
[width, height, 3]}}}``, boxes and size in pixels.
"""

import argparse
import gzip
import json
import pprint
from typing import Any

import numpy as np

from stn_jax.data.house_numbers import GROWTH, POSITIONS

# What the quantiles below are quantiles at.
LEVELS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

# How often each digit, 0 to 9, stands at each position, for numbers of 1, 2, ... 5 digits.
DIGITS = (
    ((54, 679, 683, 574, 622, 599, 527, 465, 480, 454),),
    (
        (20, 3929, 3095, 2738, 2261, 1738, 1335, 1187, 948, 879),
        (2008, 2040, 1891, 1849, 1752, 1852, 1648, 1786, 1667, 1637),
    ),
    (
        (9, 3912, 1997, 951, 584, 472, 280, 219, 149, 118),
        (1197, 1156, 1041, 931, 875, 852, 734, 726, 636, 543),
        (1122, 943, 836, 887, 870, 882, 832, 807, 810, 702),
    ),
    (
        (0, 715, 545, 85, 44, 20, 11, 6, 8, 0),
        (160, 133, 198, 186, 180, 166, 107, 127, 76, 101),
        (157, 182, 147, 169, 109, 163, 122, 153, 129, 103),
        (217, 156, 148, 120, 160, 133, 127, 115, 139, 119),
    ),
    (
        (1, 7, 1, 0, 0, 0, 0, 0, 0, 0),
        (1, 3, 1, 3, 0, 0, 0, 1, 0, 0),
        (1, 3, 0, 1, 0, 1, 1, 1, 1, 0),
        (0, 0, 2, 0, 0, 1, 3, 0, 1, 2),
        (1, 2, 0, 2, 0, 1, 0, 2, 0, 1),
    ),
)

# Height of the digits in pixels, for numbers of 1, 2, ... 5 digits.
HEIGHT = (
    (9.0, 11.0, 14.0, 16.0, 21.0, 29.0, 42.0, 58.0, 73.0, 120.0, 346.0),
    (10.0, 12.0, 15.0, 17.0, 22.0, 30.0, 43.0, 59.0, 72.0, 107.7, 403.0),
    (11.0, 12.0, 15.0, 18.0, 22.5, 30.0, 41.0, 53.0, 63.0, 83.0, 161.0),
    (11.0, 11.0, 12.0, 13.0, 15.0, 21.0, 31.0, 44.0, 54.0, 79.0, 152.0),
    (17.0, 17.1, 17.4, 17.8, 18.0, 30.0, 40.0, 45.6, 52.8, 58.6, 60.0),
)

# From the first digit to the last, in degrees, downwards positive.
SLOPE = (-90.0, -38.2, -19.4, -12.2, -5.4, 0.0, 3.8, 8.7, 12.9, 24.8, 175.2)

# Between neighbours' boxes, in heights of the digits.
GAP = (-1.929, -0.281, -0.15, -0.107, -0.053, 0.0, 0.047, 0.1, 0.143, 0.294, 2.976)

# How much of the margin of 15 % is in the photograph, above and below.
TOP = (0.0, 0.13, 0.26, 0.35, 0.69, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
BOTTOM = (0.0, 0.0, 0.33, 0.56, 0.95, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def measure(numbers: dict[str, Any]) -> dict[str, Any]:
    """The tables of this module, from labels and boxes.

    Args:
      numbers: image name to its label, boxes and size, as the module's text says.

    Returns:
      Table name to its rows, as they stand above.
    """
    digits = np.zeros((POSITIONS, POSITIONS, 10), int)
    height: list[list[float]] = [[] for _ in range(POSITIONS)]
    slope, gap, top, bottom = [], [], [], []
    for number in numbers.values():
        label, boxes = number["label"], np.array(number["boxes"], float)
        length = len(label)
        if length > POSITIONS:
            continue
        digits[length - 1, np.arange(length), [int(digit) for digit in label]] += 1
        tall = (boxes[:, 3] - boxes[:, 1]).mean()
        height[length - 1].append(tall)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        if length > 1:
            across, down = middle[-1] - middle[0]
            slope.append(np.degrees(np.arctan2(down, across)))
            gap.extend((boxes[1:, 0] - boxes[:-1, 2]) / tall)
        low, high = boxes[:, 1].min(), boxes[:, 3].max()
        margin = (GROWTH - 1) / 2 * (high - low)
        top.append(np.clip(low / margin, 0, 1))
        bottom.append(np.clip((number["size"][1] - high) / margin, 0, 1))

    def quantiles(values: list[float], decimals: int) -> tuple[float, ...]:
        return tuple(np.quantile(values, LEVELS).round(decimals).tolist())

    return {
        "DIGITS": tuple(
            tuple(tuple(digits[length, place].tolist()) for place in range(length + 1))
            for length in range(POSITIONS)
        ),
        "HEIGHT": tuple(quantiles(values, 1) for values in height),
        "SLOPE": quantiles(slope, 1),
        "GAP": quantiles(gap, 3),
        "TOP": quantiles(top, 2),
        "BOTTOM": quantiles(bottom, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stn_jax.data.street.statistics",
        description="Measures the tables of this module in SVHN's labels and boxes.",
    )
    parser.add_argument("file", metavar="FILE", help="number labels and boxes, gzipped JSON")
    with gzip.open(parser.parse_args().file) as file:
        tables = measure(json.load(file)["train"])
    for name, rows in tables.items():
        agrees = "" if globals()[name] == rows else "  # differs from the table in this module"
        print(f"{name} = {pprint.pformat(rows, width=96)}{agrees}")


if __name__ == "__main__":
    main()
