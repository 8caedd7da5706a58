"""Images per second of augmentation, against torchvision and PIL on the same cores.

    python -m benchmarks.augment [--rounds=10] [--budget=1.0]

Each side rotates, scales, shears and shifts every image of a batch at random, then flips half of
them. Ours is one program; in the last row it also transforms a mask, boxes and keypoints.
torchvision (v2, tensors) draws parameters once per call, so it is called once per image, as its
users do; PIL processes uint8 images on one core.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Report, compare, flags, optional_torch
from stn_jax import augment

BATCH, SIZE = 64, 128
ANGLE, SCALE, SHEAR, SHIFT = 30.0, (0.8, 1.25), 0.1, 0.1


def ours(targets: augment.Targets) -> Callable[[], Any]:
    @jax.jit
    def run(key: jax.Array, targets: augment.Targets) -> augment.Targets:
        keys = jax.random.split(key)
        targets, _ = augment.random_affine(
            keys[0], targets, angle=ANGLE, scale=SCALE, shear=SHEAR, shift=SHIFT
        )
        return augment.random_flip(keys[1], targets)[0]

    return functools.partial(run, jax.random.key(0), targets)


def torchvisions(torch: Any, images: np.ndarray) -> Callable[[], Any] | None:
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError):
        print("torchvision is not installed: skipped", flush=True)
        return None
    transform = v2.Compose(
        [
            v2.RandomAffine(
                ANGLE,
                (SHIFT, SHIFT),
                SCALE,
                float(np.rad2deg(np.arctan(SHEAR))),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    first = torch.tensor(np.moveaxis(images, -1, 1).copy())
    return lambda: torch.stack([transform(image) for image in first])


def pils(images: np.ndarray) -> Callable[[], Any]:
    from PIL import Image

    pictures = [Image.fromarray(image) for image in (255 * images).astype(np.uint8)]
    rng = np.random.default_rng(0)

    def one(picture: Image.Image) -> np.ndarray:
        turn = np.deg2rad(rng.uniform(-ANGLE, ANGLE))
        zoom = 1 / rng.uniform(*SCALE)
        a, b = zoom * np.cos(turn), zoom * np.sin(turn)
        shift = SIZE / 2 * (1 - a - b) + SIZE * rng.uniform(-SHIFT, SHIFT)
        matrix = (a, b + SHEAR, shift, -b, a, SIZE / 2 * (1 - a + b))
        moved = picture.transform(
            picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        if rng.random() < 0.5:
            moved = moved.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(moved)

    return lambda: np.stack([one(picture) for picture in pictures])


def main(argv: Sequence[str] | None = None) -> None:
    options = flags(__doc__, rounds=10, budget=1.0).parse_args(argv)
    torch = optional_torch()
    report = Report("augment", {"rounds": options.rounds, "budget": options.budget}, options.folder)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    sides = {"stn_jax": ours(augment.Targets(jnp.asarray(images))), "PIL": pils(images)}
    if torch is not None and (theirs := torchvisions(torch, images)) is not None:
        sides["torchvision"] = theirs
    everything = augment.Targets(
        jnp.asarray(images),
        jnp.asarray(rng.integers(0, 20, images.shape[:-1])),
        jnp.asarray(rng.uniform(0, SIZE, (BATCH, 10, 4)).astype(np.float32)),
        jnp.asarray(rng.uniform(0, SIZE, (BATCH, 17, 2)).astype(np.float32)),
    )
    shape = f"{BATCH}x{SIZE}x{SIZE}x3"
    for name, row in (
        (f"affine and flip, {shape}", sides),
        (f"affine and flip, {shape}, mask, boxes and keypoints", {"stn_jax": ours(everything)}),
    ):
        times = compare(row, options.rounds, budget=options.budget)
        speed = {f"images per second, {k}": BATCH / t.median for k, t in times.items()}
        report.row(name, {"batch": BATCH, "size": SIZE}, times=times, values=speed)


if __name__ == "__main__":
    main()
