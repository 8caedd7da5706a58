"""Which units of a network are ever active."""

from typing import Any

import jax
from flax import linen as nn

from stn_jax.models.blocks import ReLU


def apply_and_observe(
    model: nn.Module, variables: Any, *args: Any, **options: Any
) -> tuple[Any, dict[str, jax.Array]]:
    """Applies a module and observes its :class:`stn_jax.models.blocks.ReLU` layers.

    Args:
      model: any Linen module.
      variables, args, options: as of ``model.apply``.

    Returns:
      The module's result; and for each layer, by its path ("blocks_0/relu"), whether a unit is
      above 0 anywhere in the batch: bools ``[C]`` for a layer's output ``[..., C]``.
    """
    result, captured = model.apply(
        variables,
        *args,
        capture_intermediates=lambda module, _: isinstance(module, ReLU),
        **options,
    )
    active: dict[str, jax.Array] = {}
    for path, x in jax.tree.leaves_with_path(captured.get("intermediates", {})):
        # The path ends in __call__ and the number of the call.
        layer = "/".join(part.key for part in path[:-2])
        units = (x > 0).any(tuple(range(x.ndim - 1)))
        active[layer] = active[layer] | units if layer in active else units
    return result, active
