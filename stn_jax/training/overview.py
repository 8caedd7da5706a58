"""The overview at the start of a training: devices, data, parameters, configuration."""

from typing import Any

import jax

from stn_jax.training.config import Config
from stn_jax.training.provenance import environment
from stn_jax.training.run import Run


def overview(run: Run) -> str:
    """A description of a run as text: devices, data, steps, parameters by module, configuration.

    Fields that differ from their defaults are marked with an asterisk.
    """
    here = environment()
    mesh = run.placement.mesh.shape if run.placement is not None else {}
    axes = ", ".join(f"{count} for {axis}" for axis, count in mesh.items() if count > 1)
    lines = [
        f"device: {here['device']}; devices used: {run.devices}" + (f" ({axes})" if axes else ""),
        f"data: {run.config.dataset}, {len(run.data.images):,} training images; network input "
        f"{' x '.join(map(str, run.input_shape()))}",
        *(f"data: {note}" for note in run.notes),
        f"steps: {run.total_steps:,} of {run.config.batch_size} images, "
        f"{run.steps_per_epoch:,} per epoch",
        *_table(_parameters(run)),
        *_table(_fields(run.config)),
    ]
    return "\n".join(lines)


def _parameters(run: Run) -> list[tuple[str, str]]:
    """Modules, two levels deep, and the number of one network's parameters in each."""
    params = jax.eval_shape(run.init_state)["params"]
    counts: dict[str, int] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        module = "/".join(part.key for part in path[:-1][:2])
        counts[module] = counts.get(module, 0) + leaf.size // len(run.config.seeds)
    rows = [(module, f"{count:,}") for module, count in counts.items()]
    return [*rows, ("all parameters", f"{sum(counts.values()):,}")]


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
