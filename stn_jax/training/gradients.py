"""A batch's gradient, taken in parts or at once, with each image's say in the transforms bounded.

Few images have by far the longest gradients with respect to the parameters of their transform, and
drown what the others ask for. Gradient clipping by ratio shortens them to so many times the mean
norm of the whole batch, before they flow on into the localization network.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models import SpatialTransformer
from stn_jax.training.microbatch import in_parts

# Function of parameters and a part of a batch to the loss, and to a pair of trees: numbers whose
# means over the parts are wanted, and arrays of which the leading axis is that of the examples.
Loss = Callable[[Any, Any], tuple[jax.Array, tuple[Any, Any]]]


def value_and_grad(
    loss_fn: Loss, params: Any, batch: Any, *, size: int, ratio: float = 0.0
) -> tuple[tuple[jax.Array, Any, Any], Any]:
    """The mean loss of a batch and its gradient; how the batch is divided changes rounding alone.

    Args:
      loss_fn: the mean loss of a part's examples, see ``Loss``.
      params: what to take the gradient to.
      batch: tree of arrays ``[B, ...]``.
      size: examples in a part, a divisor of B.
      ratio: an image's gradient with respect to the parameters of its transform is no longer than
        this many times the mean of all of the batch; 0: as long as it is. With ratio every look of
        the transformers is found out before the gradient is taken: in a batch that is taken at once
        XLA merges the passes, and it costs nothing; in one of several parts each look costs a
        forward pass and a part of a backward pass.

    Returns:
      Loss, means and gradient; and the arrays of all examples.
    """
    if not ratio:

        def plain(part: Any, number: jax.Array) -> tuple[Any, Any]:
            (loss, (means, kept)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
                params, part
            )
            return (loss, means, gradient), kept

        return in_parts(plain, batch, size)

    def cut(params: Any, additions: Sequence[jax.Array], part: Any) -> tuple[Any, Any]:
        """Loss and the looks' parameters, of which the loss knows only the additions to them."""
        looks: list[jax.Array] = []
        with _cut_at_looks(looks, additions):
            loss, more = loss_fn(params, part)
        return (loss, looks), more

    def pulled(part: Any, cotangents: Sequence[jax.Array]) -> tuple[Any, Any, Any, Any]:
        """Loss and what else there is; gradients to parameters and to additions."""
        zeros = [jnp.zeros_like(x) for x in cotangents]
        cut_part: Any = lambda params, zeros: cut(params, zeros, part)  # noqa: E731
        (loss, _), pull, more = jax.vjp(cut_part, params, zeros, has_aux=True)
        gradient, of_looks = pull((jnp.ones_like(loss), list(cotangents)))
        return loss, more, gradient, of_looks

    def of_looks(part: Any, number: jax.Array) -> tuple[Any, Any]:
        return (), pulled(*part)[3]

    def of_params(part: Any, number: jax.Array) -> tuple[Any, Any]:
        loss, (means, kept), gradient, _ = pulled(*part)
        return (loss, means, gradient), kept

    cotangents = [jnp.zeros(look.shape, look.dtype) for look in _looks(loss_fn, params, batch)]
    # What a look is asked for depends on what those after it are.
    for i in reversed(range(len(cotangents))):
        _, gradients = in_parts(of_looks, (batch, cotangents), size)
        cotangents[i] = shortened(gradients[i], ratio)
    return in_parts(of_params, (batch, cotangents), size)


def shortened(gradient: jax.Array, ratio: float) -> jax.Array:
    """Rows of ``[B, n]``, those longer than ``ratio`` times the mean norm shortened to that."""
    norms = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
    longest = ratio * norms.mean()
    long = norms > longest
    return jnp.where(long, longest / jnp.where(long, norms, 1), 1) * gradient


def _looks(loss_fn: Loss, params: Any, batch: Any) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of what the looks at a batch give, in their order."""

    def run(params: Any, batch: Any) -> list[jax.Array]:
        looks: list[jax.Array] = []
        with _cut_at_looks(looks):
            loss_fn(params, batch)
        return looks

    return jax.eval_shape(run, params, batch)


def _cut_at_looks(
    looks: list[jax.Array], additions: Sequence[jax.Array] | None = None
) -> AbstractContextManager[None]:
    """Within, the parameters that transformers ask for are collected, and go on as constants.

    Args:
      looks: to which they are appended.
      additions: what is added to what goes on, for each look.
    """

    def intercept(
        method: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        result = method(*args, **kwargs)
        if context.method_name != "parameters" or not isinstance(
            context.module, SpatialTransformer
        ):
            return result
        looks.append(result)
        result = jax.lax.stop_gradient(result)
        return result if additions is None else result + additions[len(looks) - 1]

    return nn.intercept_methods(intercept)
