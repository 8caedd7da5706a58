"""Draws a sheet of synthetic house numbers, and compares them with real ones.

    python -m tools.street_sheet --output=FILE [--seed=0]
    python -m tools.street_sheet --svhn_dir=DIR --beside=FILE [--count=384]

The first command writes ``ROWS`` x ``COLUMNS`` generated crops to a PNG file. The second reads the
real ones from ``train.tar.gz`` and ``test.tar.gz`` in ``DIR``, prints both distributions, and
writes 30 real crops (left) beside 30 generated ones (right). SVHN is for non-commercial use: do not
publish that file. Both commands print the rendering speed.
"""

import argparse
import io
import pathlib
import sys
import time

import numpy as np
from scipy import stats

from stn_jax import street_numbers as street
from stn_jax.data.house_numbers import SIDE
from stn_jax.files import atomic_write
from stn_jax.street_numbers.scene import GRAY

ROWS, COLUMNS = 6, 15
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BANDS = ((1, 2), (2, 4), (4, 8), (8, 16), (16, 32))  # cycles per crop


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Arranges crops ``[N, SIDE, SIDE, 3]`` in rows of ``columns``; the last row must be full."""
    rows = len(images) // columns
    grid = images.reshape(rows, columns, SIDE, SIDE, 3).swapaxes(1, 2)
    return grid.reshape(rows * SIDE, columns * SIDE, 3)


def measure(images: np.ndarray) -> dict[str, np.ndarray]:
    """The measures by which crops are compared.

    Args:
      images: uint8 ``[N, SIDE, SIDE, 3]``.

    Returns:
      By name, a number for each crop, ``[N]``; black is 0 and white 1.
    """
    color = images.astype(np.float32) / 255
    gray = color @ GRAY
    result = {}
    for channel, name in enumerate(("red", "green", "blue")):
        result[f"{name}, mean"] = color[..., channel].mean((1, 2))
        result[f"{name}, deviation"] = color[..., channel].std((1, 2))
    result["red minus blue"] = (color[..., 0] - color[..., 2]).mean((1, 2))
    result["saturation"] = np.ptp(color, axis=-1).mean((1, 2))
    result["contrast of the two shades"] = np.array([_contrast(each) for each in gray])
    result["gradient across, rms"] = np.sqrt((np.diff(gray, axis=2) ** 2).mean((1, 2)))
    result["gradient down, rms"] = np.sqrt((np.diff(gray, axis=1) ** 2).mean((1, 2)))
    down, across = np.gradient(gray, axis=(1, 2))
    spectrum = _spectrum(np.hypot(down, across))
    for (low, high), power in zip(_BANDS, spectrum.T, strict=True):
        result[f"gradient magnitude at {low}-{high} cycles, rms"] = power
    return result


def _contrast(gray: np.ndarray) -> float:
    """The difference between the means of the dark and the light pixels (2-means clustering)."""
    middle = gray.mean()
    for _ in range(10):
        dark, light = gray[gray < middle], gray[gray >= middle]
        if not dark.size:
            return 0.0
        middle = (dark.mean() + light.mean()) / 2
    return float(light.mean() - dark.mean())


def _spectrum(gray: np.ndarray) -> np.ndarray:
    """Root mean square in each band of frequencies, ``[N, bands]``, under a Hann window."""
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    window /= np.sqrt((window**2).mean())
    centered = (gray - gray.mean((1, 2), keepdims=True)) * window
    power = np.abs(np.fft.fft2(centered)) ** 2 / SIDE**4
    cycles = np.fft.fftfreq(SIDE, 1 / SIDE)
    radius = np.hypot(cycles[:, None], cycles)
    return np.stack(
        [np.sqrt(power[:, (radius >= low) & (radius < high)].sum(-1)) for low, high in _BANDS], -1
    )


def compare(real: np.ndarray, generated: np.ndarray) -> str:
    """A Markdown table of quantiles, and of the distance between the two distributions.

    The distance is the Kolmogorov-Smirnov statistic: 0 if they are equal, 1 if they are disjoint.
    """
    head = " / ".join(f"{100 * level:.0f}" for level in QUANTILES)
    lines = [
        f"| | {len(real)} real crops: quantiles ({head} %) | {len(generated)} synthetic | KS |",
        "|---|---|---|---|",
    ]
    theirs, ours = measure(real), measure(generated)
    for name in theirs:
        cells = [
            " / ".join(f"{value:.3f}" for value in np.quantile(each[name], QUANTILES))
            for each in (theirs, ours)
        ]
        distance = stats.ks_2samp(theirs[name], ours[name]).statistic
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {distance:.2f} |")
    return "\n".join(lines)


def real_crops(folder: pathlib.Path) -> np.ndarray:
    """The crops ``[N, SIDE, SIDE, 3]`` of the archives in a folder, in their order."""
    from PIL import Image

    from stn_jax.data import house_numbers
    from stn_jax.data.svhn_numbers import archive

    crops = []
    for split in ("train", "test"):
        for entry in archive.read(folder / f"{split}.tar.gz", lambda fault: print(fault)):
            if len(entry.digits) <= house_numbers.POSITIONS:
                with Image.open(io.BytesIO(entry.png)) as image:
                    crops.append(house_numbers.crop_number(np.asarray(image), entry.boxes))
    return np.stack(crops)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.street_sheet",
        description="Draws synthetic house numbers, and compares them with real ones.",
    )
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="the sheet, a PNG")
    parser.add_argument("--svhn_dir", type=pathlib.Path, metavar="DIR", help="real archives")
    parser.add_argument("--beside", type=pathlib.Path, metavar="FILE", help="both sheets, a PNG")
    parser.add_argument("--count", type=int, default=384, help="number of crops to compare")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    if flags.output is None and flags.svhn_dir is None:
        parser.error("nothing to do: give --output, or --svhn_dir")
    if (flags.beside is None) != (flags.svhn_dir is None):
        parser.error("--svhn_dir and --beside go together")
    count = max(flags.count, ROWS * COLUMNS)
    try:
        _run(flags.output, flags.svhn_dir, flags.beside, count, flags.seed)
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _run(
    output: pathlib.Path | None,
    svhn_dir: pathlib.Path | None,
    beside: pathlib.Path | None,
    count: int,
    seed: int,
) -> None:
    import jax
    from PIL import Image

    batch = 128
    street.make("test", batch, seed=seed, batch_size=batch)  # compiles
    start = time.perf_counter()
    generated = np.asarray(street.make("train", count, seed=seed, batch_size=batch).images)
    drawn = -(-count // batch) * batch  # the last batch is drawn to its end
    speed = drawn / (time.perf_counter() - start)
    device = jax.devices()[0]
    print(
        f"{speed:.0f} crops/s on {device.device_kind} in batches of {batch}, jax {jax.__version__}"
    )
    if output is not None:
        sheet = Image.fromarray(tile(generated[: ROWS * COLUMNS], COLUMNS))
        with atomic_write(output, "wb") as file:
            sheet.save(file, "PNG", optimize=True)
    if svhn_dir is not None and beside is not None:
        real = real_crops(svhn_dir)
        print(compare(real, generated))
        gap = np.full((6 * SIDE, SIDE // 2, 3), 255, np.uint8)
        both = [tile(each[:30], 5) for each in (real, generated)]
        with atomic_write(beside, "wb") as file:
            Image.fromarray(np.concatenate([both[0], gap, both[1]], 1)).save(file, "PNG")


if __name__ == "__main__":
    main()
