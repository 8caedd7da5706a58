"""Accuracy on photographs of digits, by disturbance and strength.

    python -m benchmarks.photographs [--count 200] [--seed 0] [--part report] [--only NAME ...]
    python -m benchmarks.photographs --render

Digits of the sample's test split are rendered as photographs (benchmarks/scenes.py) and classified
as by ``eval.py --image``, with ``load_pretrained("rotated_mnist/stn-sl1")``. The settings of the
digit detection were chosen on the first half of the split (``--part tuning``); results are reported
for the second. Lines are appended to results/photographs/; page and pictures are written to docs/.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.harness import ROOT, Report, read_lines
from benchmarks.photograph_cases import CASES, Case
from benchmarks.render import newest
from benchmarks.scenes import Scene, no_digits, photograph
from stn_jax.data import sources
from stn_jax.data.photographs import Reading, find_digit
from stn_jax.data.sources import Split
from stn_jax.files import atomic_write
from stn_jax.pretrained import describe, load_pretrained
from stn_jax.training.classify import probability_doubts

NETWORK = "rotated_mnist/stn-sl1"
RESULTS = ROOT / "results" / "photographs"
PAGE = ROOT / "docs" / "photographs.md"
GOAL = 95.0  # percent, for disturbances that would not disturb a person


# --- measuring -----------------------------------------------------------------------------------


def digits(part: str, count: int) -> tuple[Split, np.ndarray]:
    """Evenly spaced digits from a half of the sample's test split, and all images of that half.

    Args:
      part: "tuning" (the first half) or "report" (the second).
      count: number of digits.

    Raises:
      ValueError: the half has fewer digits.
    """
    whole = sources.load("mnist_sample").test
    half = len(whole.images) // 2
    if not 1 <= count <= half:
        raise ValueError(f"count is {count}; expected 1 to {half}, the number of digits in a half")
    start = half * (part == "report")
    chosen = start + ((np.arange(count) + 1) * half - 1) // count
    images = whole.images[..., 0]
    return Split(images[chosen], whole.labels[chosen]), images[start : start + half]


def network() -> Callable[[np.ndarray], np.ndarray]:
    """The network, as a function from uint8 ``[B, 28, 28, 1]`` to probabilities ``[B, 10]``."""
    module, variables, _ = load_pretrained(NETWORK)
    known = describe(NETWORK)

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        normalized = (images / np.float32(255) - known["mean"]) / known["deviation"]
        logits: Any = module.apply(variables, normalized)
        return jax.nn.softmax(logits)

    return lambda images: np.asarray(probabilities(images))


def read_all(photographs: Iterable[np.ndarray]) -> tuple[list[Reading | None], np.ndarray]:
    """Readings (None if nothing was found) and network inputs ``[N, 28, 28, 1]``."""
    readings = [find_digit(pixels) for pixels in photographs]
    blank = np.zeros((28, 28, 1), np.uint8)
    return readings, np.stack([blank if r is None else r.image for r in readings])


def photographs_of(scene: Scene, part: str, count: int, seed: int) -> list[np.ndarray]:
    split, others = digits(part, count)
    return [
        photograph(scene, glyph, others, np.random.default_rng((seed, i)))
        for i, glyph in enumerate(split.images)
    ]


def measured(
    pages: Iterable[np.ndarray],
    labels: np.ndarray | None,
    probabilities: Callable[[np.ndarray], np.ndarray],
) -> dict[str, float | None]:
    """The percentages reported for photographs; no accuracy for those without labels."""
    readings, images = read_all(pages)
    found = probabilities(images)
    doubted = np.array(
        [
            reading is None or bool(reading.doubts or probability_doubts(each[None], str))
            for reading, each in zip(readings, found, strict=True)
        ]
    )
    sure = np.array([r is not None for r in readings]) * found.max(-1)
    values: dict[str, float | None] = {
        "doubted": 100 * float(doubted.mean()),
        "confident without doubt": 100 * float(((sure > 0.8) & ~doubted).mean()),
        "mean confidence": 100 * float(sure.mean()),
    }
    if labels is None:
        return values
    right = np.array([r is not None for r in readings]) & (found.argmax(-1) == labels)
    wrong_doubted = float(doubted[~right].mean()) if not right.all() else None
    return {
        "right": 100 * float(right.mean()),
        **values,
        "doubted of the wrong": None if wrong_doubted is None else 100 * wrong_doubted,
    }


def contact_sheet(cases: Sequence[Case], part: str, seed: int, columns: int = 4) -> Image.Image:
    """Photographs and network inputs side by side, one of each case."""
    tiles = []
    for i, case in enumerate(cases):
        page = photographs_of(case.scene, part, len(cases), seed)[i]
        given = Image.fromarray(read_all([page])[1][0, ..., 0]).resize((144, 144), 0)
        tile = Image.new("RGB", (296, 148), "white")
        tile.paste(Image.fromarray(page).resize((144, 144), Image.Resampling.BOX), (0, 2))
        tile.paste(given, (146, 2))
        tiles.append(tile)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (296 * columns, 148 * rows), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * 296, i // columns * 148))
    return sheet


# --- the page ------------------------------------------------------------------------------------
INTRODUCTION = """\
# Photographs of digits

The accuracy of `eval.py --image` on photographs like those of a phone's camera. Generated by
`python -m benchmarks.photographs --render` from the lines of `results/photographs/`; no number is
typed by hand.

    python -m benchmarks.photographs            # measure; --count, --seed, --part, --only
    python -m benchmarks.photographs --render   # write this page and its pictures

{count} digits of the sample's test split (from MNIST) are rendered as photographs of 288x288
pixels and classified by `{network}`. The photographs are simulated: real paper, pens and cameras
vary more. The digits are upright and originally scanned. The settings of the digit detection were
chosen on the first half of the split; the results are for the second. Strengths marked * would
disturb a person, too; for the others the goal is {goal:.0f} % correct, and rows that miss it are
bold. A prediction is *doubtful* if the command gives a reason why it may be wrong: nothing stands
out, there are several marks, a mark touches the border, two predictions are close, or none is
likely. It is *confident* if its probability is above 80 %.
"""

_SHEET_TEXT = """\
## The network's inputs

One digit of each row above, next to the network's input (`photographs.png`):

![photographs and the network's inputs](photographs.png)
"""


def page(lines: Iterable[dict[str, Any]]) -> str:
    """The page as Markdown."""
    devices = newest(lines)
    rows = [row for found in devices.values() for row in found["photographs"]]
    counts = "/".join(sorted({str(row["options"]["count"]) for row in rows}))
    parts = [INTRODUCTION.format(count=counts, network=NETWORK, goal=GOAL)]
    for device, found in devices.items():
        order = [case.name for case in CASES]
        lines_of = sorted(
            found["photographs"],
            key=lambda line: order.index(line["row"]) if line["row"] in order else len(order),
        )
        with_digit = [line for line in lines_of if "right" in line["values"]]
        without = [line for line in lines_of if "right" not in line["values"]]
        first = lines_of[0]
        versions = "; ".join(f"{k} {v}" for k, v in first["versions"].items() if v is not None)
        parts.append(f"## {device}\n\nSeed {first['options']['seed']}. Versions: {versions}.\n")
        parts.append(_table(with_digit, _WITH_DIGIT))
        parts.append("For photographs without a single digit, no prediction is correct:\n")
        parts.append(_table(without, _WITHOUT))
    return "\n".join([*parts, _SHEET_TEXT])


# Headings by the names of the values.
_WITHOUT = {
    "doubted": "doubtful",
    "confident without doubt": "confident, not doubtful",
    "mean confidence": "mean confidence",
}
_WITH_DIGIT = {
    "right": "correct",
    **_WITHOUT,
    "doubted of the wrong": "doubtful, of the incorrect",
}


def _table(lines: Sequence[dict[str, Any]], headings: dict[str, str]) -> str:
    rows = [["disturbance", "strength", *(f"{each}, %" for each in headings.values())]]
    rows.append(["---"] * len(rows[0]))
    for line in lines:
        case, values = line["case"], line["values"]
        cells = ["" if values[k] is None else f"{values[k]:.1f}" for k in headings]
        if case["bearable"] and values.get("right", 100) < GOAL:
            cells[0] = f"**{cells[0]}**"
        rows.append(
            [case["disturbance"], case["strength"] + (" *" * (not case["bearable"])), *cells]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def measure(options: argparse.Namespace, report: Report) -> None:
    """Measures all cases, and all kinds of pages without a digit."""
    probabilities = network()
    split, others = digits(options.part, options.count)
    for case in CASES:
        if any(part in case.name for part in options.only):
            pages = photographs_of(case.scene, options.part, options.count, options.seed)
            values = measured(pages, split.labels, probabilities)
            report.row(case.name, case._asdict() | {"scene": vars(case.scene)}, values=values)
    few = min(options.count, 50)
    for kind, pages in no_digits(others, few, options.seed).items():
        if any(part in kind for part in options.only):
            about = {"disturbance": kind, "strength": f"{few} of them", "bearable": True}
            report.row(kind, about, values=measured(pages, None, probabilities))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="number of digits per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=("tuning", "report"), default="report")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="only rows whose name contains any"
    )
    parser.add_argument("--folder", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--render", action="store_true", help="only write the page")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(argv)
    if not options.render:
        asked = {name: getattr(options, name) for name in ("count", "seed", "part")}
        measure(options, Report("photographs", asked | {"network": NETWORK}, options.folder))
        return
    lines = [line for line in read_lines(options.folder) if line["options"]["part"] == "report"]
    if not lines:
        parser.error(f"there are no results in {options.folder} yet; measure first")
    with atomic_write(options.page) as file:
        file.write(page(lines))
    with atomic_write(options.page.with_suffix(".png"), "wb") as file:
        sheet = contact_sheet(CASES, "report", lines[-1]["options"]["seed"])
        sheet.save(file, "PNG", optimize=True)
    print(f"{options.page}: {len(lines)} lines read")


if __name__ == "__main__":
    main()
