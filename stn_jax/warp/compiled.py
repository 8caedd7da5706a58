"""Functions of arrays that are compiled as a whole, even where the caller does not use ``jax.jit``.

Without it, each of their operations would be compiled and dispatched by itself, which takes a
hundred times longer, on the first call as on later ones.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


class _Constant:
    """An argument that a program depends on, hashed by value."""

    def __init__(self, value: Any):
        self.value = value
        self.key = _key(value)
        self.hash = hash(self.key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self.key == other.key


def _key(value: Any) -> Any:
    """A hashable that tells values apart, ``1`` from ``True``, too. TypeError: there is none."""
    if isinstance(value, (tuple, list)):
        return type(value), *map(_key, value)
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return type(value), value


def compiled(*arrays: str) -> Callable[[Function], Function]:
    """A decorator that compiles a function for the types of its array arguments.

    Inside a program that is being traced, the function becomes part of it as if there were no
    decorator.

    Args:
      arrays: the names of the arguments that are arrays, or sequences of arrays. JAX arrays among
        the other arguments are arrays as well; all else is constant in a program.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        if unknown := set(arrays) - set(signature.parameters):
            raise ValueError(f"{function.__name__} has no arguments named {sorted(unknown)}")

        @functools.partial(jax.jit, static_argnums=0, inline=True)
        def program(constants: tuple[tuple[str, _Constant], ...], given: Mapping[str, Any]) -> Any:
            return function(**{name: each.value for name, each in constants}, **given)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **kwargs).arguments
                given = {n: v for n, v in bound.items() if n in arrays or _has_jax_arrays(v)}
                constants = tuple((n, _Constant(v)) for n, v in bound.items() if n not in given)
            except TypeError:  # an argument is missing, or of a type that no program takes
                return function(*args, **kwargs)
            if not all(map(_is_array, jax.tree.leaves(given))):
                return function(*args, **kwargs)
            return program(constants, given)

        return call  # type: ignore[return-value]

    return decorate


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, (np.ndarray, np.generic)):
        return leaf.dtype.kind not in "OSUmM"
    return isinstance(leaf, jax.Array)


def _has_jax_arrays(value: Any) -> bool:
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
