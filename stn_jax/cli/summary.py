"""Results as lines on the terminal."""

import numpy as np

from stn_jax.analysis.pose import POSE_COMPONENTS


def print_result(result: dict, workdir: str) -> None:
    errors = ", ".join(f"{error:.2f}" for error in result["test_error_percent"])
    interval = "" if result["ci95"] is None else f" +- {result['ci95']:.2f} (95 %)"
    print(
        f"{result['variant']} on {result['task']}: test error {errors} %, mean "
        f"{result['mean']:.2f} %{interval}{alignment(result)}; "
        f"see {workdir}/result.json and figures/"
    )


def alignment(result: dict) -> str:
    """What there is to say of how well poses are undone, means over seeds; or nothing."""
    said = ""
    for component in POSE_COMPONENTS.values():
        if component.slopes[0] not in result:
            continue
        slope = " and ".join(f"{np.mean(result[name]):.2f}" for name in component.slopes)
        spread, within = (np.mean(result.get(name, [np.nan])) for name in component.spreads)
        digits = component.decimals
        inside = "" if np.isnan(within) else f" ({within:.{digits}f} within a digit)"
        said = f", slope {slope}, spread {spread:.{digits}f} {component.unit}{inside}"
    if "window_share" in result:
        said += f", window {np.mean(result['window_share']):.2f}"
    return said
