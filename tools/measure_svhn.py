"""Measures how SVHN's house numbers are distributed.

    python -m tools.measure_svhn FILE

FILE is a gzipped JSON object ``{"train": {name: {"label": "19", "boxes": [[left, top, right,
bottom], ...], "size": [width, height, 3]}}}``, boxes and size in pixels.
"""

import argparse
import gzip
import json
import pprint
from typing import Any

import numpy as np

from stn_jax.data.house_numbers import GROWTH, POSITIONS
from stn_jax.street_numbers import svhn_statistics


def measure(numbers: dict[str, Any]) -> dict[str, Any]:
    """The tables of svhn_statistics, from labels and boxes.

    Args:
      numbers: label, boxes and size by image name, see the module's docstring.

    Returns:
      The tables' rows by name, as in ``svhn_statistics.py``.
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
        return tuple(np.quantile(values, svhn_statistics.LEVELS).round(decimals).tolist())

    return {
        "DIGITS": tuple(
            tuple(tuple(digits[length, position].tolist()) for position in range(length + 1))
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
        prog="python -m tools.measure_svhn",
        description="Measures the tables of svhn_statistics.py from SVHN's labels.",
    )
    parser.add_argument("file", metavar="FILE", help="number labels and boxes, gzipped JSON")
    with gzip.open(parser.parse_args().file) as file:
        tables = measure(json.load(file)["train"])
    for name, rows in tables.items():
        agrees = (
            "" if getattr(svhn_statistics, name) == rows else "  # differs from the table there"
        )
        print(f"{name} = {pprint.pformat(rows, width=96)}{agrees}")


if __name__ == "__main__":
    main()
