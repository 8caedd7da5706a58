"""Many random numbers of different kinds from one key."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class RandomDraws:
    """Hands out random numbers, drawn all at once: a draw of each its own would compile slowly.

    Args:
      key: a key.
      count: how many numbers there are; handing out more raises.
    """

    def __init__(self, key: jax.Array, count: int) -> None:
        self._uniform = jax.random.uniform(key, (count,))
        # The same numbers as quantiles: each serves as the one or the other.
        self._normal = jax.scipy.special.ndtri(jnp.clip(self._uniform, 1e-4, 1 - 1e-4))
        self._used = 0

    def _take(self, numbers: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        start, self._used = self._used, self._used + int(np.prod(shape, dtype=int))
        if self._used > len(numbers):
            raise IndexError(f"{self._used} random numbers asked for, {len(numbers)} drawn")
        return numbers[start : self._used].reshape(shape)

    def uniform(
        self, low: ArrayLike = 0.0, high: ArrayLike = 1.0, shape: tuple[int, ...] = ()
    ) -> jax.Array:
        """Uniform between two bounds."""
        low, high = jnp.asarray(low), jnp.asarray(high)
        return low + (high - low) * self._take(self._uniform, shape)

    def integer(self, count: int, shape: tuple[int, ...] = ()) -> jax.Array:
        """A whole number from 0 to count - 1, int32."""
        return jnp.minimum(self.uniform(0, count, shape).astype(jnp.int32), count - 1)

    def normal(self, deviation: ArrayLike = 1.0, shape: tuple[int, ...] = ()) -> jax.Array:
        """Normal about 0, cut at 3.7 deviations."""
        return jnp.asarray(deviation) * self._take(self._normal, shape)

    def happens(self, probability: ArrayLike, shape: tuple[int, ...] = ()) -> jax.Array:
        """True with this probability."""
        return self.uniform(shape=shape) < probability

    def quantile(self, levels: Sequence[float], values: ArrayLike | Sequence[float]) -> jax.Array:
        """With these quantiles, and linear in between."""
        return jnp.interp(self.uniform(), jnp.asarray(levels), jnp.asarray(values))
