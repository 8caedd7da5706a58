"""Images per second of augmentation, against torchvision and PIL on the same cores.

    python -m benchmarks.augment [--rounds=10] [--budget=1.0] [--only=TEXT]

"Affine and flip" rotates, scales, shears and shifts every image of a batch at random, then flips
half of them; the other rows are single augmentations. Ours is one program; in the last row it also
transforms a mask, boxes and keypoints.
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


# Each augmentation: ours, as a function of a key and targets, and torchvision's by its name in v2.
Augmentation = Callable[[jax.Array, augment.Targets], augment.Targets]


def affine_and_flip(key: jax.Array, targets: augment.Targets) -> augment.Targets:
    keys = jax.random.split(key)
    targets, _ = augment.random_affine(
        keys[0], targets, angle=ANGLE, scale=SCALE, shear=SHEAR, shift=SHIFT
    )
    return augment.random_flip(keys[1], targets)[0]


def single(random: Callable[..., Any], *args: Any, **options: Any) -> Augmentation:
    """A function of stn_jax.augment, without the random parameters that it returns."""
    return lambda key, targets: random(key, targets, *args, **options)[0]


def augmentations() -> dict[str, tuple[Augmentation, Callable[[Any], Any] | None]]:
    """By name: ours, and what makes torchvision's from the module v2; None: it has none."""
    half = (SIZE // 2, SIZE // 2)
    return {
        "affine and flip": (
            affine_and_flip,
            lambda v2: v2.Compose(
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
            ),
        ),
        "perspective": (
            single(augment.random_perspective, distortion=0.5),
            lambda v2: v2.RandomPerspective(0.5, p=1.0),
        ),
        "elastic": (
            single(augment.random_elastic, magnitude=2.0, smoothness=8.0),
            lambda v2: v2.ElasticTransform(alpha=50.0, sigma=8.0),
        ),
        "thin-plate spline": (single(augment.random_thin_plate), None),
        "crop": (single(augment.random_crop, half), lambda v2: v2.RandomCrop(half)),
        "resized crop": (
            single(augment.random_resized_crop, half),
            lambda v2: v2.RandomResizedCrop(half, antialias=True),
        ),
    }


def ours(augmentation: Augmentation, targets: augment.Targets) -> Callable[[], Any]:
    return functools.partial(jax.jit(augmentation), jax.random.key(0), targets)


def torchvisions(
    torch: Any, make: Callable[[Any], Any], images: np.ndarray
) -> Callable[[], Any] | None:
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError):
        print("torchvision is not installed: skipped", flush=True)
        return None
    transform = make(v2)
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
    parser = flags(__doc__, rounds=10, budget=1.0)
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    options = parser.parse_args(argv)
    torch = optional_torch()
    report = Report("augment", {"rounds": options.rounds, "budget": options.budget}, options.folder)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    shape = f"{BATCH}x{SIZE}x{SIZE}x3"
    rows: dict[str, dict[str, Callable[[], Any]]] = {}
    for name, (augmentation, make) in augmentations().items():
        sides = {"stn_jax": ours(augmentation, augment.Targets(jnp.asarray(images)))}
        if augmentation is affine_and_flip:
            sides["PIL"] = pils(images)
        if torch is not None and make is not None:
            theirs = torchvisions(torch, make, images)
            sides |= {} if theirs is None else {"torchvision": theirs}
        rows[f"{name}, {shape}"] = sides
    everything = augment.Targets(
        jnp.asarray(images),
        jnp.asarray(rng.integers(0, 20, images.shape[:-1])),
        jnp.asarray(rng.uniform(0, SIZE, (BATCH, 10, 4)).astype(np.float32)),
        jnp.asarray(rng.uniform(0, SIZE, (BATCH, 17, 2)).astype(np.float32)),
    )
    rows[f"affine and flip, {shape}, mask, boxes and keypoints"] = {
        "stn_jax": ours(affine_and_flip, everything)
    }
    for name, sides in rows.items():
        if options.only not in name:
            continue
        times = compare(sides, options.rounds, budget=options.budget)
        speed = {f"images per second, {k}": BATCH / t.median for k, t in times.items()}
        report.row(name, {"batch": BATCH, "size": SIZE}, times=times, values=speed)


if __name__ == "__main__":
    main()
