"""Calls of submodules that may or may not take a ``train`` argument."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn


def call(module: Callable[..., Any], x: jax.Array, train: bool, **options: Any) -> Any:
    """``module(x, train, **options)``, or without ``train`` if the module does not take it.

    ``train`` is passed by position if it is the second argument, so that modules of ``nn.remat(...,
    static_argnums=2)`` can be part of a network.
    """
    parameters = _parameters(module)
    flag = next((p for p in parameters if p.name == "train"), None)
    if flag is None and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        return module(x, **options)
    if flag in parameters[1:2] and flag.kind == flag.POSITIONAL_OR_KEYWORD:
        return module(x, train, **options)
    return module(x, train=train, **options)


def call_sequence(modules: Sequence[Callable[..., Any]], x: jax.Array, train: bool) -> jax.Array:
    """Calls modules in sequence, each by :func:`call`."""
    for module in modules:
        x = call(module, x, train)
    return x


def _parameters(module: Callable[..., Any]) -> list[inspect.Parameter]:
    if isinstance(module, nn.Sequential):  # passes its arguments to the first layer
        return _parameters(module.layers[0]) if module.layers else []
    try:
        return list(inspect.signature(module).parameters.values())
    except (TypeError, ValueError):  # not a Python function
        return []
