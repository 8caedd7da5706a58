"""One-line summaries of results for the terminal."""

from collections.abc import Sequence

import numpy as np

from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.data.tasks import RANDOM


def print_result(result: dict, workdir: str) -> None:
    """Prints the summary of a run's result."""
    errors = ", ".join(f"{error:.2f}" for error in result["test_error_percent"])
    interval = "" if result["ci95"] is None else f" +- {result['ci95']:.2f} (95 %)"
    print(
        f"{result['variant']} on {result['task']}: test error {errors} %, mean "
        f"{result['mean']:.2f} %{interval}{alignment(result)}; "
        f"see {workdir}/result.json and figures/"
    )


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table with aligned columns; the first row is its header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def alignment(result: dict) -> str:
    """How well the network undoes the distortions, means over seeds; "" without a transformer."""
    text = ""
    thing = "an image" if result.get("task") in RANDOM else "a digit"
    for component in POSE_COMPONENTS.values():
        if component.rms_keys[0] not in result:
            continue
        slope = " and ".join(f"{np.mean(result[name]):.2f}" for name in component.slope_keys)
        rms = (np.mean(result.get(name, [np.nan])) for name in component.rms_keys)
        within_class, within_example = rms
        digits = component.decimals
        detail = (
            "" if np.isnan(within_example) else f" ({within_example:.{digits}f} within {thing})"
        )
        text = f", slope {slope}" if slope else ""
        text += f", within-class RMS {within_class:.{digits}f} {component.unit}{detail}"
    if "window_share" in result:
        text += f", window {np.mean(result['window_share']):.2f}"
    return text
