"""Random numbers of different distributions from one key."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class RandomDraws:
    """Provides random numbers that are drawn all at once, since many small draws compile slowly.

    Args:
      key: a key.
      count: the number of random numbers; using more raises IndexError.
    """

    def __init__(self, key: jax.Array, count: int) -> None:
        self._uniform = jax.random.uniform(key, (count,))
        # The same numbers as quantiles: each is used in one form or the other.
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
        """An integer from 0 to count - 1, int32."""
        return jnp.minimum(self.uniform(0, count, shape).astype(jnp.int32), count - 1)

    def normal(self, deviation: ArrayLike = 1.0, shape: tuple[int, ...] = ()) -> jax.Array:
        """Normal with mean 0, clipped at 3.7 deviations."""
        return jnp.asarray(deviation) * self._take(self._normal, shape)

    def happens(self, probability: ArrayLike, shape: tuple[int, ...] = ()) -> jax.Array:
        """True with this probability."""
        return self.uniform(shape=shape) < probability

    def quantile(self, levels: Sequence[float], values: ArrayLike | Sequence[float]) -> jax.Array:
        """A number from a distribution with these quantiles, linear in between."""
        return jnp.interp(self.uniform(), jnp.asarray(levels), jnp.asarray(values))
