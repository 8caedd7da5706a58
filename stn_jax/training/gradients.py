"""A batch's gradient: accumulated over microbatches, with clipping by ratio.

A few images have by far the largest gradients with respect to their transform's parameters, and
would dominate the update. Gradient clipping by ratio scales them down to a multiple of the batch's
mean norm before they reach the localization network.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models import SpatialTransformer
from stn_jax.training.microbatch import map_microbatches

# Function of parameters and a microbatch that returns the loss and a pair of trees: numbers to
# average over the microbatches, and arrays with a leading axis of examples.
Loss = Callable[[Any, Any], tuple[jax.Array, tuple[Any, Any]]]


def value_and_grad(
    loss_fn: Loss, params: Any, batch: Any, *, size: int, ratio: float = 0.0
) -> tuple[tuple[jax.Array, Any, Any], Any]:
    """The mean loss of a batch and its gradient; the microbatch size changes only rounding.

    Args:
      loss_fn: the mean loss over a microbatch, see ``Loss``.
      params: differentiated.
      batch: tree of arrays ``[B, ...]``.
      size: examples per microbatch, a divisor of B.
      ratio: an image's gradient with respect to the parameters of its transform is scaled down to
        at most this many times the mean norm over the batch; 0: no clipping. Clipping takes one
        pass for each iteration of the transformers. With a single microbatch XLA merges these and
        they are free; with several, each costs a forward pass and part of a backward pass.

    Returns:
      (loss, means, gradient), and the arrays of all examples.
    """
    if not ratio:

        def plain(part: Any, number: jax.Array) -> tuple[Any, Any]:
            (loss, (means, kept)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
                params, part
            )
            return (loss, means, gradient), kept

        return map_microbatches(plain, batch, size)

    def detached(params: Any, offsets: Sequence[jax.Array], part: Any) -> tuple[Any, Any]:
        """The loss and the transforms; the loss depends on them only through the offsets."""
        thetas: list[jax.Array] = []
        with _detach_transforms(thetas, offsets):
            loss, aux = loss_fn(params, part)
        return (loss, thetas), aux

    def backward(part: Any, cotangents: Sequence[jax.Array]) -> tuple[Any, Any, Any, Any]:
        """Loss and auxiliary outputs; gradients with respect to parameters and offsets."""
        zeros = [jnp.zeros_like(x) for x in cotangents]
        of_part: Any = lambda params, zeros: detached(params, zeros, part)  # noqa: E731
        (loss, _), vjp, aux = jax.vjp(of_part, params, zeros, has_aux=True)
        gradient, offset_gradients = vjp((jnp.ones_like(loss), list(cotangents)))
        return loss, aux, gradient, offset_gradients

    def transform_gradients(part: Any, number: jax.Array) -> tuple[Any, Any]:
        return (), backward(*part)[3]

    def parameter_gradients(part: Any, number: jax.Array) -> tuple[Any, Any]:
        loss, (means, kept), gradient, _ = backward(*part)
        return (loss, means, gradient), kept

    thetas = _transform_shapes(loss_fn, params, batch)
    cotangents = [jnp.zeros(theta.shape, theta.dtype) for theta in thetas]
    # The gradient of an iteration depends on the clipped gradients of those after it.
    for i in reversed(range(len(cotangents))):
        _, gradients = map_microbatches(transform_gradients, (batch, cotangents), size)
        cotangents[i] = clip_by_ratio(gradients[i], ratio)
    return map_microbatches(parameter_gradients, (batch, cotangents), size)


def clip_by_ratio(gradient: jax.Array, ratio: float) -> jax.Array:
    """Scales rows of ``[B, n]`` down to at most ``ratio`` times the mean norm."""
    norms = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
    limit = ratio * norms.mean()
    long = norms > limit
    return jnp.where(long, limit / jnp.where(long, norms, 1), 1) * gradient


def _transform_shapes(loss_fn: Loss, params: Any, batch: Any) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the transforms' parameters, by iteration."""

    def run(params: Any, batch: Any) -> list[jax.Array]:
        thetas: list[jax.Array] = []
        with _detach_transforms(thetas):
            loss_fn(params, batch)
        return thetas

    return jax.eval_shape(run, params, batch)


def _detach_transforms(
    thetas: list[jax.Array], offsets: Sequence[jax.Array] | None = None
) -> AbstractContextManager[None]:
    """Within the block, the transforms' parameters are collected and replaced by constants.

    Args:
      thetas: the list they are appended to, by iteration.
      offsets: added to the constants, one for each iteration.
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
        thetas.append(result)
        result = jax.lax.stop_gradient(result)
        return result if offsets is None else result + offsets[len(thetas) - 1]

    return nn.intercept_methods(intercept)
