"""Sampling and its derivatives as operations on arrays.

    Sample:               image, where                -> samples
    Tangent(f, mask):     arguments, some tangents    -> f's tangents; linear in the tangents
    Adjoint(f, mask):     arguments, cotangents       -> gradients to some arguments

They are closed under differentiation, so there are derivatives of any order and mode. An operation
is lowered to :mod:`stn_jax.warp.kernels` or, on a CPU, to :mod:`stn_jax.warp.native`, so that the
implementation matches the platform the program is lowered for; and no derivative is traced before
it is needed.

All arguments of an operation have the same number of leading axes, which are of equal size or of
size 1. vmap adds an axis in front, of size 1 for arguments that are not mapped, so nothing is
copied.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from stn_jax.warp import kernels
from stn_jax.warp.native import calls
from stn_jax.warp.sampling import Sampling

Arrays = Sequence[jax.Array]

# Its rules for JAX are in stn_jax.warp.primitives.
warp_p = Primitive("stn_jax_warp")
warp_p.multiple_results = True


class Operation:
    """A computation of the primitive: static, hashable."""

    @property
    def arguments(self) -> int:
        """The number of arguments."""
        raise NotImplementedError

    @property
    def results(self) -> int:
        """The number of results."""
        raise NotImplementedError

    def types(self, *args: Any) -> list[Any]:
        """Shapes and types of the results."""
        raise NotImplementedError

    def compute(self, *args: jax.Array, cpu: bool) -> list[jax.Array]:
        """The results, in plain JAX."""
        raise NotImplementedError

    def native_call(self, ctx: Any, *args: Any) -> Any:
        """The results of a native CPU kernel; None if there is no kernel for this case."""
        return None

    def expand(self, args: Arrays, mapped: Sequence[bool], size: int) -> list[jax.Array]:
        """The arguments of an operation under vmap, with the mapped axis in front.

        Repeats axes of size 1 that must have the mapped size; by default all of them.
        """
        return [
            x if is_mapped else jnp.broadcast_to(x, (size, *x.shape[1:]))
            for x, is_mapped in zip(args, mapped, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Sample(Operation):
    """image, where -> samples."""

    sampling: Sampling

    @property
    def arguments(self) -> int:
        return 2

    @property
    def results(self) -> int:
        return 1

    def types(self, *args: Any) -> list[Any]:
        image, where = args
        return [_samples_type(self.sampling, image, [image], [where])]

    def compute(self, *args: jax.Array, cpu: bool) -> list[jax.Array]:
        image, where = args
        return [kernels.sample(image, where, self.sampling, cpu=cpu)]

    def native_call(self, ctx: Any, *args: Any) -> Any:
        return calls.sample(ctx, self.sampling, *args)

    def expand(self, args: Arrays, mapped: Sequence[bool], size: int) -> list[jax.Array]:
        return list(args)


@dataclasses.dataclass(frozen=True)
class Tangent(Operation):
    """f's arguments, tangents of those in the mask -> tangents of f's results."""

    of: Operation
    mask: tuple[bool, ...]

    @property
    def arguments(self) -> int:
        return self.of.arguments + sum(self.mask)

    @property
    def results(self) -> int:
        return self.of.results

    def types(self, *args: Any) -> list[Any]:
        return self.of.types(*args[: self.of.arguments])

    def compute(self, *args: jax.Array, cpu: bool) -> list[jax.Array]:
        primals, tangents = args[: self.of.arguments], args[self.of.arguments :]

        def of_some(*some: jax.Array) -> list[jax.Array]:
            return self.of.compute(*_merge(primals, self.mask, some), cpu=cpu)

        return jax.jvp(of_some, select(primals, self.mask), tuple(tangents))[1]


@dataclasses.dataclass(frozen=True)
class SampleTangent(Tangent):
    """image, where, their tangents -> tangents of the samples.

    Sampling is linear in the image, so the image's tangent is sampled directly, and may have
    different leading axes.
    """

    of: Sample

    def types(self, *args: Any) -> list[Any]:
        image, where, *tangents = args
        of_image, of_where = _named(tangents, self.mask)
        return [_samples_type(self.of.sampling, image, [image, *of_image], [where, *of_where])]

    def compute(self, *args: jax.Array, cpu: bool) -> list[jax.Array]:
        image, where, *tangents = args
        of_image, of_where = _named(tangents, self.mask)
        terms = [bind(self.of, x, where)[0] for x in of_image]
        for x in of_where:
            by_where = functools.partial(kernels.sample, image, sampling=self.of.sampling, cpu=cpu)
            terms.append(jax.jvp(by_where, (where,), (x,))[1])
        return [functools.reduce(jnp.add, terms)]

    def expand(self, args: Arrays, mapped: Sequence[bool], size: int) -> list[jax.Array]:
        image, where, *tangents = args
        if not self.mask[1]:
            return list(args)
        pair = Operation.expand(self, [where, tangents[-1]], [mapped[1], mapped[-1]], size)
        return [image, pair[0], *tangents[:-1], pair[1]]


@dataclasses.dataclass(frozen=True)
class Adjoint(Operation):
    """f's arguments, cotangents of its results -> gradients to the arguments in the mask."""

    of: Operation
    mask: tuple[bool, ...]

    @property
    def arguments(self) -> int:
        return self.of.arguments + self.of.results

    @property
    def results(self) -> int:
        return sum(self.mask)

    def types(self, *args: Any) -> list[Any]:
        return list(select(args, self.mask))

    def compute(self, *args: jax.Array, cpu: bool) -> list[jax.Array]:
        primals, cotangents = args[: self.of.arguments], args[self.of.arguments :]

        def of_some(*some: jax.Array) -> list[jax.Array]:
            return self.of.compute(*_merge(primals, self.mask, some), cpu=cpu)

        _, pull_back = jax.vjp(of_some, *select(primals, self.mask))
        return list(pull_back(list(cotangents)))


@dataclasses.dataclass(frozen=True)
class SampleAdjoint(Adjoint):
    """image, where, cotangent of the samples -> gradients to the image, to where, or both."""

    of: Sample

    def compute(self, *args: jax.Array, cpu: bool) -> list[jax.Array]:
        image, where, cotangent = args
        sampling, wanted = self.of.sampling, self.mask
        return kernels.adjoint(image, where, cotangent, sampling, wanted, cpu=cpu)

    def native_call(self, ctx: Any, *args: Any) -> Any:
        return calls.adjoint(ctx, self.of.sampling, self.mask, *args)

    def expand(self, args: Arrays, mapped: Sequence[bool], size: int) -> list[jax.Array]:
        # A gradient has the shape of its argument.
        pairs = zip(mapped[:2], self.mask, strict=True)
        whole = [is_mapped or not wanted for is_mapped, wanted in pairs]
        return Operation.expand(self, args, [*whole, True], size)


def tangent(of: Operation, mask: Sequence[bool]) -> Tangent:
    """The tangent map of an operation, for tangents of some arguments."""
    return SampleTangent(of, tuple(mask)) if isinstance(of, Sample) else Tangent(of, tuple(mask))


def adjoint(of: Operation, mask: Sequence[bool]) -> Adjoint:
    """The transpose of an operation's tangent map."""
    return SampleAdjoint(of, tuple(mask)) if isinstance(of, Sample) else Adjoint(of, tuple(mask))


def bind(operation: Operation, *args: jax.Array) -> list[jax.Array]:
    """The primitive applied to an operation and its arguments."""
    return warp_p.bind(*args, operation=operation)


def _samples_type(sampling: Sampling, image: Any, images: Arrays, wheres: Arrays) -> Any:
    leads = [sampling.lead("image", x) for x in images]
    leads += [sampling.lead("where", x) for x in wheres]
    lead = functools.reduce(_broadcast, leads)
    shape = (*lead, *sampling.out_shape(wheres[0]), image.shape[-1])
    return jax.ShapeDtypeStruct(shape, image.dtype)


def _broadcast(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(y if isinstance(x, int) and x == 1 else x for x, y in zip(a, b, strict=True))


def select(args: Sequence[Any], mask: Sequence[bool]) -> tuple[Any, ...]:
    return tuple(x for x, wanted in zip(args, mask, strict=False) if wanted)


def _merge(args: Arrays, mask: Sequence[bool], some: Arrays) -> list[jax.Array]:
    """The arguments with some of them replaced."""
    rest = iter(some)
    return [next(rest) if wanted else x for x, wanted in zip(args, mask, strict=True)]


def _named(tangents: Arrays, mask: Sequence[bool]) -> tuple[list[jax.Array], list[jax.Array]]:
    """Tangents of image and where: lists of one, or empty."""
    split = sum(mask[:1])
    return list(tangents[:split]), list(tangents[split:])
