"""Time of the networks' expensive layers: ours, XLA's plain operations, PyTorch's.

    python -m benchmarks.layers [--rounds=20] [--budget=1] [--only=TEXT]

Convolutions without padding, and max-pooling by 2, for batches of 256 in float32, each side in its
own layout. The forward pass and the gradients to the input and to the kernel are timed separately.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Report, compare, flags, optional_torch, ratio
from stn_jax.models import layers

BATCH = 256
PADDING = "VALID"
NUMBERS = ("NHWC", "HWIO", "NHWC")


class Conv(NamedTuple):
    """A convolution of square maps by square kernels."""

    side: int
    channels: int
    kernel: int
    features: int

    @property
    def name(self) -> str:
        shape = f"{self.side}x{self.side}x{self.channels}"
        return f"convolution {shape} by {self.kernel}x{self.kernel}x{self.features}"

    @property
    def operations(self) -> float:
        out = (self.side - self.kernel + 1) ** 2
        return 2.0 * BATCH * out * self.kernel**2 * self.channels * self.features


CONVS = (
    Conv(28, 1, 9, 64),
    Conv(10, 64, 7, 64),
    Conv(60, 1, 9, 64),
    Conv(26, 64, 7, 64),
    Conv(60, 1, 5, 20),
    Conv(28, 20, 5, 20),
    Conv(26, 64, 5, 20),
)


def convolution(case: Conv, kind: str, torch: Any) -> dict[str, Callable[[], Any]]:
    """A convolution or one of its gradients, by side."""
    rng = np.random.default_rng(0)
    out = case.side - case.kernel + 1
    x = rng.normal(size=(BATCH, case.side, case.side, case.channels)).astype(np.float32)
    k = rng.normal(size=(case.kernel, case.kernel, case.channels, case.features))
    k = (k / np.sqrt(case.kernel**2 * case.channels)).astype(np.float32)
    g = rng.normal(size=(BATCH, out, out, case.features)).astype(np.float32)

    def side(conv: Callable[..., jax.Array]) -> Callable[[], Any]:
        def apply(x: jax.Array, k: jax.Array) -> jax.Array:
            return conv(x, k, (1, 1), PADDING, dimension_numbers=NUMBERS)

        programs = {
            "forward": lambda x, k, g: apply(x, k),
            "to the input": lambda x, k, g: jax.vjp(lambda x: apply(x, k), x)[1](g),
            "to the kernel": lambda x, k, g: jax.vjp(lambda k: apply(x, k), k)[1](g),
        }
        program, args = jax.jit(programs[kind]), [jnp.asarray(a) for a in (x, k, g)]
        return lambda: program(*args)

    sides = {
        "stn_jax": side(layers.conv_general_dilated),
        "plain": side(jax.lax.conv_general_dilated),
    }
    if torch is not None:
        tx, tg = (torch.tensor(np.moveaxis(a, -1, 1).copy()) for a in (x, g))
        tk = torch.tensor(k.transpose(3, 2, 0, 1).copy())
        masks = {"to the input": [True, False, False], "to the kernel": [False, True, False]}

        def forward() -> Any:
            with torch.no_grad():
                return torch.nn.functional.conv2d(tx, tk)

        def backward() -> Any:
            zeros, ones = [0, 0], [1, 1]
            return torch.ops.aten.convolution_backward(
                tg, tx, tk, None, ones, zeros, ones, False, zeros, 1, masks[kind]
            )

        sides["torch"] = forward if kind == "forward" else backward
    return sides


def pooling(side: int, channels: int, kind: str, torch: Any) -> dict[str, Callable[[], Any]]:
    """A pooling by 2 or its gradient, by side."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, side, side, channels)).astype(np.float32)
    g = rng.normal(size=(BATCH, side // 2, side // 2, channels)).astype(np.float32)

    def jax_side(pool: Callable[[jax.Array], jax.Array]) -> Callable[[], Any]:
        def both(x: jax.Array, g: jax.Array) -> Any:
            out, pull_back = jax.vjp(pool, x)
            return out, pull_back(g)

        program = jax.jit(both if kind == "backward" else lambda x, g: pool(x))
        args = jnp.asarray(x), jnp.asarray(g)
        return lambda: program(*args)

    def plain(x: jax.Array) -> jax.Array:
        with layers.force_implementation("lax"):
            return layers.max_pool(x)

    sides = {"stn_jax": jax_side(layers.max_pool), "plain": jax_side(plain)}
    if torch is not None:
        tx = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=kind == "backward")
        tg = torch.tensor(np.moveaxis(g, -1, 1).copy())

        def run() -> Any:
            out = torch.nn.functional.max_pool2d(tx, 2)
            if kind == "backward":
                tx.grad = None
                out.backward(tg)
            return out

        sides["torch"] = run
    return sides


def main(argv: Sequence[str] | None = None, convs: Sequence[Conv] = CONVS) -> None:
    parser = flags(__doc__, rounds=20, budget=1)
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    options = parser.parse_args(argv)
    report = Report("layers", {"rounds": options.rounds, "budget": options.budget}, options.folder)
    torch = optional_torch()

    def measure(name: str, case: dict[str, Any], sides: Any, operations: float = 0.0) -> None:
        if options.only in name:
            times = compare(sides(), options.rounds, budget=options.budget)
            values = {"rival / ours": ratio(times)}
            if operations:
                values["GFLOP/s"] = operations / times["stn_jax"].median / 1e9
            report.row(name, case, times=times, values=values)

    for conv in convs:
        for kind in ("forward", "to the input", "to the kernel"):
            if kind == "to the input" and conv.channels == 1:
                continue  # the images need no gradient
            measure(
                f"{conv.name}, {kind}",
                conv._asdict(),
                lambda conv=conv, kind=kind: convolution(conv, kind, torch),
                conv.operations,
            )
    for side, channels in ((20, 64), (4, 64), (52, 64)):
        for kind in ("forward", "backward"):
            measure(
                f"pooling {side}x{side}x{channels}, {kind}",
                {"side": side, "channels": channels},
                lambda side=side, channels=channels, kind=kind: pooling(
                    side, channels, kind, torch
                ),
            )


if __name__ == "__main__":
    main()
