"""The initial state of a training: new parameters, or those of another network."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from stn_jax.pretrained import available, load_pretrained
from stn_jax.tensor_file import leaves_by_name
from stn_jax.training import processes
from stn_jax.training.config import ConfigError
from stn_jax.training.restore import load_without_data
from stn_jax.training.run import Run
from stn_jax.training.step import State


def initial_state(run: Run) -> State:
    """The state before the first step.

    With ``init_from``, layers take the parameters of the layers with the same names and shapes in a
    run or in pretrained weights; the optimizer starts afresh. The others are printed.

    Raises:
      ConfigError: there is no such run, or none of its parameters fit.
      DataError: as :func:`stn_jax.load_run`.
    """
    state, where = run.init_state(), run.config.init_from
    if not where:
        return state
    given = processes.run_on_all(lambda: _parameters(run, where))
    own = run.fetch(state["params"])
    taken = _fitting(leaves_by_name(own), given)
    if processes.is_primary():
        print(_report(where, own, given, taken), flush=True)
    if not taken:
        raise ConfigError(
            f"init_from is {where}, none of whose parameters fit this network; expected a network "
            "of the same task and variant"
        )
    leaves = [
        jnp.asarray(given[name], x.dtype) if name in taken else x
        for name, x in leaves_by_name(own).items()
    ]
    params = jax.tree.unflatten(jax.tree.structure(own), leaves)
    return run.put({**run.fetch(state), "params": params})


def _parameters(run: Run, where: str) -> dict[str, jax.Array]:
    """Parameters by name, with a leading axis of the run's seeds."""
    seeds = run.config.seeds
    if not Path(where).exists():
        if where not in available():
            raise ConfigError(
                f"init_from is {where}, which is neither the folder of a run nor one of the "
                f"pretrained networks {', '.join(available())}"
            )
        params = load_pretrained(where)[1]["params"]
        indices = jnp.zeros(len(seeds), jnp.int32)
        params = jax.tree.map(lambda x: x[None], params)
    else:
        other, state = load_without_data(where)
        params, known = state["params"], other.config.seeds
        # A seed continues from the same seed, a new one from the first.
        indices = jnp.array([known.index(seed) if seed in known else 0 for seed in seeds])
    return leaves_by_name(jax.tree.map(lambda x: x[indices], params))


def _fitting(own: dict[str, Any], given: dict[str, Any]) -> set[str]:
    """The parameters of the layers whose arrays all have the same shapes in both."""
    layers: dict[str, list[str]] = {}
    for name in own:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    fit = {name for name, x in own.items() if name in given and given[name].shape == x.shape}
    return {name for names in layers.values() if fit.issuperset(names) for name in names}


def _report(where: str, own: Any, given: dict[str, jax.Array], taken: set[str]) -> str:
    """Lines that list the parameters that were taken, and the others."""
    names = leaves_by_name(own)
    lines = [f"init_from {where}: {len(taken)} of {len(names)} parameter arrays taken"]
    for name, x in names.items():
        if name not in taken:
            stored = f"{_shape(given[name])} there" if name in given else "not there"
            lines.append(f"  new: {name} {_shape(x)}, {stored}")
    lines += [f"  left out: {name} {_shape(x)}" for name, x in given.items() if name not in names]
    return "\n".join(lines)


def _shape(x: Any) -> str:
    return str(list(x.shape[1:]))  # without the axis of seeds
