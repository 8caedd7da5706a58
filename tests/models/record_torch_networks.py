"""Records what PyTorch makes of the study's networks, for tests that run without PyTorch.

Run as ``python tests/models/record_torch_networks.py``; it takes minutes and writes
``tests/data/torch_network_cases.npz``. The tests also use its functions for live comparisons
where PyTorch is installed.

Parameters, images and labels are not stored: both sides draw them from a stored seed. A network
has kinks, where its gradient jumps: the zero of a ReLU, equal values in a pooling window, whole
pixels in a warp. On which side of a kink a number falls is decided by rounding, and no two
programs round alike. So a seed is taken only if all is ``MARGIN`` away from every kink.
"""

import itertools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from stn_jax import create_model, interop

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "data" / "torch_network_cases.npz"
MARGIN = 1e-5  # pixels, or units of activations of order 1; float32 moves them by a tenth of it
BATCH = 2
BUCKETS = 32

IMAGES = {
    "rotated_mnist": (28, 28, 1),
    "translated_mnist": (60, 60, 1),
    "scaled_mnist": (112, 112, 1),
    "svhn": (64, 64, 3),
    "svhn_cropped": (32, 32, 3),
}


class Case(NamedTuple):
    """A network of the study; options are those of ``create_model``."""

    task: str
    variant: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return "-".join([self.task, self.variant, *(f"{k}_{v}" for k, v in self.options.items())])

    @classmethod
    def of(cls, task: str, variant: str, **options: Any) -> "Case":
        return cls(task, variant, options)


RECORDED = [
    *itertools.starmap(
        Case.of,
        itertools.product(
            ("rotated_mnist", "translated_mnist"), ("cnn", "stn-c0", "stn-c1", "stn-sl1")
        ),
    ),
    Case.of("rotated_mnist", "stn-dl1"),
    Case.of("rotated_mnist", "stn-sl1", iterations=2),
    *(Case.of("scaled_mnist", variant, width=1 / 16) for variant in ("stn-c0", "stn-sl1")),
    *(Case.of("svhn", variant, width=1 / 16) for variant in ("cnn", "stn-c0", "stn-c3", "stn-sl8")),
]

# Every other depth, more looks, the options. Of these only the seed is recorded.
SWEPT = [
    Case.of("rotated_mnist", "stn-c2", width=1 / 4),
    Case.of("rotated_mnist", "stn-dl2", width=1 / 4),
    Case.of("rotated_mnist", "stn-c1", width=1 / 4, iterations=3, classes=7),
    Case.of("rotated_mnist", "stn-c0", width=1 / 4, mode="bicubic", padding_mode="reflection"),
    Case.of("translated_mnist", "stn-c2", width=1 / 4),
    Case.of("translated_mnist", "stn-sl2", width=1 / 4, downsample=1),
    Case.of("translated_mnist", "stn-dl1", width=1 / 4, align_corners=False),
    Case.of("scaled_mnist", "stn-dl1", width=1 / 16),
    *(Case.of("svhn_cropped", variant, width=1 / 16) for variant in ("stn-c0", "stn-sl1")),
    *(
        Case.of("svhn", variant, width=1 / 16)
        for variant in ("stn-dl2", "stn-sl4", "stn-dl5", "stn-c6", "stn-sl7", "stn-c8")
    ),
]


class Draw:
    """Uniform numbers in [-1, 1), the same with every version of NumPy.

    Only of a bit generator's raw numbers does NumPy promise that they never change.
    """

    def __init__(self, seed: int):
        self._bits = np.random.PCG64(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        raw = self._bits.random_raw(math.prod(shape)).reshape(shape)
        return (raw >> np.uint64(11)) * 2.0**-52 - 1


def inputs(case: Case, seed: int) -> dict[str, Any]:
    """Parameters (a Flax tree), images and labels, the numbers exact in float32.

    The layer to theta is not zero: it moves the image's edges by a tenth of its size or so.
    """
    draw = Draw(seed)
    images = _waves(draw, BATCH, *IMAGES[case.task])
    model = create_model(case.task, case.variant, **case.options)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    params = {}
    for path, leaf in sorted(traverse_util.flatten_dict(variables["params"]).items()):
        if path[-1] == "bias":
            scale = 0.1
        else:
            # Kernels keep the scale of what comes in, those before a ReLU twice its square.
            gain = {"logits": 1, "theta": 0.01}.get(path[-2], 2)
            scale = math.sqrt(3 * gain / math.prod(leaf.shape[:-1]))
        params[path] = (scale * draw(*leaf.shape)).astype(np.float32)
    classes = logits.shape[-1]
    labels = ((draw(*logits.shape[:-1]) + 1) / 2 * classes).astype(np.int32)
    return {"params": traverse_util.unflatten_dict(params), "images": images, "labels": labels}


def _waves(draw: Draw, batch: int, height: int, width: int, channels: int) -> np.ndarray:
    """Images of plane waves, 8 pixels long or longer: warps of them are smooth in the theta.

    In large images, whose positions float32 rounds more coarsely, they are longer.
    """
    count = 8
    turns = draw(batch, channels, count, 2) / (8 if height <= 64 else 16)
    phase = np.pi * draw(batch, channels, count)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    angle = (
        2 * np.pi * (rows * turns[..., 0, None, None] + columns * turns[..., 1, None, None])
        + phase[..., None, None]
    )
    waves = np.cos(angle).sum(2) * np.sqrt(2 / count)
    return np.moveaxis(waves, 1, -1).astype(np.float32)


def clear_seed(case: Case) -> int:
    """The first seed whose inputs keep the margin."""
    seeds = itertools.count()
    return next(seed for seed in seeds if keeps_margin(case, inputs(case, seed)))


def _torch_model(case: Case, params: dict[str, Any]) -> Any:
    model = interop.create(case.task, case.variant, **case.options)
    model = model.double().eval()
    interop.load_flax(model, params)
    return model


def _torch_images(arrays: dict[str, Any]) -> Any:
    import torch

    return torch.tensor(arrays["images"], dtype=torch.float64).permute(0, 3, 1, 2).contiguous()


def torch_results(case: Case, arrays: dict[str, Any]) -> dict[str, Any]:
    """What PyTorch gives in float64: logits, theta (where there is one), loss and gradients.

    The loss is the sum of the positions' cross-entropies, and the batch's mean.
    """
    import torch
    from torch.nn import functional

    model = _torch_model(case, arrays["params"])
    logits, (theta, _) = model(_torch_images(arrays), return_details=True)
    labels = torch.tensor(arrays["labels"], dtype=torch.int64)
    loss = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.flatten(), reduction="sum"
    ) / len(labels)
    loss.backward()
    found = {"logits": logits, "loss": loss} | ({} if theta is None else {"theta": theta})
    return {
        **{name: tensor.detach().numpy() for name, tensor in found.items()},
        "gradients": interop.to_flax(model, gradients=True),
    }


class _NearKinkError(Exception):
    pass


def keeps_margin(case: Case, arrays: dict[str, Any]) -> bool:
    """Whether a network stays away from every kink, anywhere on its way."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    def distance(func, args, kwargs):
        x = args[0]
        if func is functional.relu:
            return x.abs().min()
        if func is functional.max_pool2d:
            windows = functional.unfold(x.flatten(0, 1)[:, None], 2, stride=2)
            first, second = windows.topk(2, dim=1).values.unbind(1)
            return (first - second)[first > 0].min()  # those below 0 are cut by the next ReLU
        if func is functional.grid_sample:
            sizes, corners = torch.tensor(x.shape[:-3:-1]), int(kwargs["align_corners"])
            pixels = (args[1] + 1) / 2 * (sizes - corners) - (1 - corners) / 2
            near = (pixels > -2) & (pixels < sizes + 1)
            return (pixels - pixels.round()).abs()[near].min()
        return torch.inf

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if distance(func, args, kwargs) < MARGIN:
                raise _NearKinkError
            return func(*args, **(kwargs or {}))

    model = _torch_model(case, arrays["params"])
    try:
        with torch.no_grad(), Watch():
            model(_torch_images(arrays))
    except _NearKinkError:
        return False
    return True


def summary(gradients: Any) -> np.ndarray:
    """Gradients in short: a row a leaf, of its norm and of its sums over random sets.

    Each element counts in one of the sums, with a random sign. A leaf that is wrong in any way has
    other sums: by about as much, in the norm, as it is wrong.
    """
    rows = []
    for i, (_, leaf) in enumerate(sorted(traverse_util.flatten_dict(gradients).items())):
        flat = np.asarray(leaf, np.float64).ravel()
        signed = np.where(Draw(i)(flat.size) < 0, -flat, flat)
        padded = np.pad(signed, (0, -flat.size % BUCKETS))
        rows.append([np.linalg.norm(flat), *padded.reshape(-1, BUCKETS).sum(0)])
    return np.array(rows)


def record() -> dict[str, np.ndarray]:
    """All cases as a flat dict."""
    recorded = {}
    for case in RECORDED + SWEPT:
        found: dict[str, Any] = {"seed": clear_seed(case)}
        if case in RECORDED:
            found |= torch_results(case, inputs(case, found["seed"]))
            found["gradients"] = summary(found["gradients"])
        for key, value in found.items():
            recorded[f"{case.name}/{key}"] = np.asarray(value)
    return recorded


if __name__ == "__main__":
    np.savez_compressed(FILE, **record())
