"""Dropout with a separate random mask for each example, whatever batch it is in."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec


class Dropout(nn.Module):
    """Sets values to 0 in training and scales the others up, so that the mean is unchanged.

    As :class:`flax.linen.Dropout`, but each example's mask comes from a separate key, derived
    from the layer's key and the example's number. Microbatches thus get the same masks as the whole
    batch (see :func:`numbered`).

    Attributes:
      rate: the fraction of the values that are set to 0.
    """

    rate: float

    def numbers(self, count: int) -> jax.Array:
        """The examples' numbers ``[count]``: their positions in the batch."""
        return jnp.arange(count)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, ...]`` to the same shape; with train it needs ``rngs={"dropout": key}``."""
        if not train or self.rate == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        key, keep = self.make_rng("dropout"), 1 - self.rate
        numbers, sharding = self.numbers(x.shape[0]), jax.typeof(x).sharding
        explicit = any(axis is not None for axis in sharding.spec)
        if explicit:  # on a mesh with explicit axes; otherwise the compiler handles it
            numbers = jax.sharding.reshard(numbers, PartitionSpec(sharding.spec[0]))

        def mask(number: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, number), keep, x.shape[1:])

        kept = jax.vmap(mask)(numbers)
        kept = jax.sharding.reshard(kept, sharding) if explicit else kept
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


def numbered(numbers: jax.Array) -> AbstractContextManager[None]:
    """A context in which dropout uses these numbers ``[B]`` for a batch's examples.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from stn_jax.models.dropout import Dropout, numbered
      >>> x, rngs = jnp.ones((6, 8)), {"dropout": jax.random.key(0)}
      >>> whole = Dropout(0.5).apply({}, x, train=True, rngs=rngs)
      >>> with numbered(jnp.arange(4, 6)):
      ...     part = Dropout(0.5).apply({}, x[4:], train=True, rngs=rngs)
      >>> bool((part == whole[4:]).all())
      True
    """

    def intercept(
        method: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        replaced = isinstance(context.module, Dropout) and context.method_name == "numbers"
        return numbers if replaced else method(*args, **kwargs)

    return nn.intercept_methods(intercept)
