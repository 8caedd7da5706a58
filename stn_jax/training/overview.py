"""What a training begins with: the devices, the network by its parts, the configuration."""

from typing import Any

import jax

from stn_jax.training.config import Config
from stn_jax.training.provenance import environment
from stn_jax.training.run import Run


def overview(run: Run) -> str:
    """What will be trained, as lines: devices, parameters by module, all fields by value.

    Fields that differ from their defaults are marked with a star.
    """
    here = environment()
    mesh = run.placement.mesh.shape if run.placement is not None else {}
    shared = ", ".join(f"{count} for {axis}" for axis, count in mesh.items() if count > 1)
    lines = [
        f"device: {here['device']}; devices used: {run.devices}"
        + (f" ({shared})" if shared else ""),
        f"data: {run.config.dataset}, {len(run.data.images):,} training images; the network sees "
        f"{' x '.join(map(str, run.input_shape()))}",
        *(f"data: {note}" for note in run.notes),
        f"steps: {run.total_steps:,} of {run.config.batch_size} images, {run.steps_per_epoch:,} an "
        "epoch",
        *_table(_parameters(run)),
        *_table(_fields(run.config)),
    ]
    return "\n".join(lines)


def _parameters(run: Run) -> list[tuple[str, str]]:
    """Modules, two levels deep, and how many parameters one network has in each."""
    params = jax.eval_shape(run.init_state)["params"]
    counts: dict[str, int] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        module = "/".join(part.key for part in path[:-1][:2])
        counts[module] = counts.get(module, 0) + leaf.size // len(run.config.seeds)
    rows = [(module, f"{count:,}") for module, count in counts.items()]
    return [*rows, ("parameters in all", f"{sum(counts.values()):,}")]


def _fields(config: Config) -> list[tuple[str, str]]:
    defaults = Config().to_dict()
    return [
        (name + (" *" if value != defaults[name] else ""), _format(value))
        for name, value in config.to_dict().items()
    ]


def _format(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return ["", *(f"  {name:<{width}}  {value}" for name, value in rows)]
