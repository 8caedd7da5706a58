"""Sampling as operations of JAX: how they are differentiated, mapped, laid out and lowered.

There is one primitive. What it computes is an :class:`Operation`: sampling (:class:`Sample`), the
tangent of an operation (:class:`Tangent`), or the transpose of that tangent (:class:`Adjoint`):

    Sample:               image, where                -> samples
    Tangent(f, mask):     arguments, some tangents    -> f's tangents; linear in the tangents
    Adjoint(f, mask):     arguments, cotangents       -> gradients to some arguments

These are closed under differentiation, so there are derivatives of any order and mode. An
operation is computed when a program is lowered, by :mod:`stn_jax.warp.kernels` or, on a CPU, by
:mod:`stn_jax.warp.native`, so the form fits the platform that the program is for, wherever it is
made; and no derivative is traced before it is needed.

All arguments of an operation have the same number of leading axes, of one size or of size 1, so
mapping adds an axis in front, of size 1 where an argument is not mapped: nothing is copied for it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from stn_jax.warp import kernels
from stn_jax.warp.kernels import Sampling
from stn_jax.warp.native import calls

# Which implementation warps take: None (the fastest for the platform), "xla" or "native" (an error
# where there is none). For tests and measurements: ``with force_implementation("xla"): ...``.
# Programs are traced anew for each. A program exported for CPUs has "native" only by this.
force_implementation = jax.make_user_context(None)

Arrays = Sequence[jax.Array]


class Operation:
    """What the primitive computes: static, hashable."""

    arguments: int  # how many
    results: int

    def types(self, *args: Any) -> list[jax.ShapeDtypeStruct]:
        """Shapes and types of the results."""
        raise NotImplementedError

    def compute(self, *args: jax.Array, cpu: bool) -> list[jax.Array]:
        """The results, in plain JAX."""
        raise NotImplementedError

    def native_call(self, ctx: Any, *args: Any) -> Any:
        """The results by a CPU kernel; None where there is none for this."""
        return None

    def expand(self, args: Arrays, mapped: Sequence[bool], size: int) -> list[jax.Array]:
        """Arguments of a mapped operation, all with the mapped axis in front.

        Axes of size 1 that must be of the mapped size are repeated: all of them, if an operation
        knows no better.
        """
        return [
            x if is_mapped else jnp.broadcast_to(x, (size, *x.shape[1:]))
            for x, is_mapped in zip(args, mapped, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Sample(Operation):
    """image, where -> samples."""

    sampling: Sampling
    arguments = 2
    results = 1

    def types(self, image, where):
        return [_samples_type(self.sampling, image, [image], [where])]

    def compute(self, image, where, *, cpu):
        return [kernels.sample(image, where, self.sampling, cpu=cpu)]

    def native_call(self, ctx, *args):
        return calls.sample(ctx, self.sampling, *args)

    def expand(self, args, mapped, size):
        return list(args)


@dataclasses.dataclass(frozen=True)
class Tangent(Operation):
    """f's arguments, tangents of those in the mask -> tangents of f's results."""

    of: Operation
    mask: tuple[bool, ...]

    @property
    def arguments(self):
        return self.of.arguments + sum(self.mask)

    @property
    def results(self):
        return self.of.results

    def types(self, *args):
        return self.of.types(*args[: self.of.arguments])

    def compute(self, *args, cpu):
        primals, tangents = args[: self.of.arguments], args[self.of.arguments :]

        def of_some(*some: jax.Array) -> list[jax.Array]:
            return self.of.compute(*_merge(primals, self.mask, some), cpu=cpu)

        return jax.jvp(of_some, _select(primals, self.mask), tuple(tangents))[1]


@dataclasses.dataclass(frozen=True)
class SampleTangent(Tangent):
    """image, where, their tangents -> tangents of the samples.

    Linear in the image, so its tangent is sampled as it is, and may have other leading axes.
    """

    of: Sample

    def types(self, image, where, *tangents):
        of_image, of_where = _named(tangents, self.mask)
        return [
            _samples_type(self.of.sampling, image, [image, *of_image], [where, *of_where]),
        ]

    def compute(self, image, where, *tangents, cpu):
        of_image, of_where = _named(tangents, self.mask)
        terms = [bind(self.of, x, where)[0] for x in of_image]
        for x in of_where:
            by_where = functools.partial(kernels.sample, image, sampling=self.of.sampling, cpu=cpu)
            terms.append(jax.jvp(by_where, (where,), (x,))[1])
        return [functools.reduce(jnp.add, terms)]

    def expand(self, args, mapped, size):
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
    def arguments(self):
        return self.of.arguments + self.of.results

    @property
    def results(self):
        return sum(self.mask)

    def types(self, *args):
        return list(_select(args, self.mask))

    def compute(self, *args, cpu):
        primals, cotangents = args[: self.of.arguments], args[self.of.arguments :]

        def of_some(*some: jax.Array) -> list[jax.Array]:
            return self.of.compute(*_merge(primals, self.mask, some), cpu=cpu)

        _, pull_back = jax.vjp(of_some, *_select(primals, self.mask))
        return list(pull_back(list(cotangents)))


@dataclasses.dataclass(frozen=True)
class SampleAdjoint(Adjoint):
    """image, where, cotangent of the samples -> gradients to the image, to where, or both."""

    of: Sample

    def compute(self, *args, cpu):
        return kernels.adjoint(*args, self.of.sampling, self.mask, cpu=cpu)

    def native_call(self, ctx, *args):
        return calls.adjoint(ctx, self.of.sampling, self.mask, *args)

    def expand(self, args, mapped, size):
        # A gradient has the shape of its argument.
        pairs = zip(mapped[:2], self.mask, strict=True)
        whole = [is_mapped or not wanted for is_mapped, wanted in pairs]
        return Operation.expand(self, args, [*whole, True], size)


def tangent(of: Operation, mask: Sequence[bool]) -> Tangent:
    """The tangent map of an operation, for tangents of some arguments."""
    return (SampleTangent if isinstance(of, Sample) else Tangent)(of, tuple(mask))


def adjoint(of: Operation, mask: Sequence[bool]) -> Adjoint:
    """The transpose of an operation's tangent map."""
    return (SampleAdjoint if isinstance(of, Sample) else Adjoint)(of, tuple(mask))


def sample(image: jax.Array, where: jax.Array, sampling: Sampling) -> jax.Array:
    """Samples an image; arguments and result as :mod:`stn_jax.warp.kernels` has them."""
    operation = Sample(sampling._replace(implementation=force_implementation.value))
    return bind(operation, *_vary_alike(image, where))[0]


def bind(operation: Operation, *args: jax.Array) -> list[jax.Array]:
    """The primitive applied to an operation and its arguments."""
    return _warp_p.bind(*args, operation=operation)


def _samples_type(sampling: Sampling, image: Any, images: Arrays, wheres: Arrays) -> Any:
    leads = [sampling.lead("image", x) for x in images]
    leads += [sampling.lead("where", x) for x in wheres]
    lead = functools.reduce(_broadcast, leads)
    shape = (*lead, *sampling.out_shape(wheres[0]), image.shape[-1])
    return jax.ShapeDtypeStruct(shape, image.dtype)


def _broadcast(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(y if isinstance(x, int) and x == 1 else x for x, y in zip(a, b, strict=True))


def _select(args: Sequence[Any], mask: Sequence[bool]) -> tuple[Any, ...]:
    return tuple(x for x, wanted in zip(args, mask, strict=False) if wanted)


def _merge(args: Arrays, mask: Sequence[bool], some: Arrays) -> list[jax.Array]:
    """The arguments with some of them replaced."""
    rest = iter(some)
    return [next(rest) if wanted else x for x, wanted in zip(args, mask, strict=True)]


def _named(tangents: Arrays, mask: Sequence[bool]) -> tuple[list[jax.Array], list[jax.Array]]:
    """Tangents of image and where: lists of one, or empty."""
    split = sum(mask[:1])
    return list(tangents[:split]), list(tangents[split:])


def _vary_alike(*args: jax.Array) -> list[jax.Array]:
    """Under shard_map: all vary over the mesh axes that any of them varies over.

    The transpose of the cast is the sum over devices by which the gradient to a replicated
    argument is that of all of them.
    """
    union = frozenset().union(*(_varying(x) for x in args))
    return [
        jax.lax.pcast(x, tuple(missing), to="varying") if (missing := union - _varying(x)) else x
        for x in args
    ]


def _varying(x: jax.Array) -> frozenset[Any]:
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)  # before jax 0.10.2: vma
    return kind.vma if manual is None else manual.varying


# --- the primitive -------------------------------------------------------------------------------

_warp_p = Primitive("stn_jax_warp")
_warp_p.multiple_results = True


@functools.cache
def _compiled(operation: Operation) -> Callable[..., Any]:
    return jax.jit(functools.partial(_warp_p.bind, operation=operation))


@_warp_p.def_impl
def _run(*args, operation):
    with jax.disable_jit(False):
        return _compiled(operation)(*args)


@_warp_p.def_abstract_eval
def _abstract(*args, operation):
    types = operation.types(*args)
    if all(x.sharding.mesh.empty for x in args):
        return [ShapedArray(t.shape, t.dtype) for t in types]
    while type(operation) is Tangent:
        operation, args = operation.of, args[: operation.of.arguments]
    if isinstance(operation, Adjoint):
        return [x.update(weak_type=False) for x in _select(args, operation.mask)]
    # By tracing, so that JAX's own rules tell how the result is laid out over a mesh.
    lead = len(_sampling_of(operation).lead("image", args[0]))

    def like(*args):
        sums = [x.sum(range(lead, x.ndim)) for x in args]
        total = functools.reduce(jnp.add, sums)
        return [
            jnp.broadcast_to(jnp.expand_dims(total, range(lead, len(t.shape))), t.shape)
            for t in types
        ]

    return jax.make_jaxpr(like)(*args).out_avals


def _sampling_of(operation: Operation) -> Sampling:
    while not isinstance(operation, Sample):
        operation = operation.of
    return operation.sampling


def _jvp(primals, tangents, *, operation):
    mask = tuple(type(t) is not ad.Zero for t in tangents)
    found = _linearized(operation, mask, primals, _select(tangents, mask))
    return bind(operation, *primals), found


def _linearized(operation, mask, primals, tangents):
    if isinstance(operation, Sample) and mask == (True, False):
        return bind(operation, *tangents, primals[1])  # it is linear in the image
    return bind(tangent(operation, mask), *primals, *tangents)


def _transpose(cotangents, *args, operation):
    linear = [ad.is_undefined_primal(x) for x in args]
    cotangents = [ad.instantiate_zeros(ct) for ct in cotangents]
    if isinstance(operation, Sample):
        of, primals = operation, [_zeros(x) for x in args]
        found = bind(adjoint(of, linear), *primals, *cotangents)
    elif isinstance(operation, Tangent):
        of, primals = operation.of, args[: operation.of.arguments]
        rest = iter(linear[len(primals) :])
        mask = [wanted and next(rest) for wanted in operation.mask]
        found = bind(adjoint(of, mask), *primals, *cotangents)
    else:
        primals = args[: operation.of.arguments]
        found = _linearized(operation.of, operation.mask, primals, cotangents)
    gradients = iter(found)
    return [next(gradients) if is_linear else None for is_linear in linear]


def _zeros(x: Any) -> Any:
    """For an argument to transpose by, of which nothing but the shape counts."""
    return ad.zeros_like_aval(x.aval) if ad.is_undefined_primal(x) else x


def _map(args, dims, *, operation):
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    mapped = [d is not None for d in dims]
    front = [
        jnp.expand_dims(x, 0) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(args, dims, strict=True)
    ]
    found = bind(operation, *operation.expand(front, mapped, size))
    return found, [0] * len(found)


ad.primitive_jvps[_warp_p] = _jvp
ad.primitive_transposes[_warp_p] = _transpose
batching.primitive_batchers[_warp_p] = _map


def _lower(ctx, *args, operation, cpu):
    if cpu and (found := operation.native_call(ctx, *args)) is not None:
        return found

    def compute(*args):
        # Layouts over a mesh are the partitioner's business here.
        with jax.sharding.use_abstract_mesh(_NO_MESH):
            if any(isinstance(n, int) and n == 0 for x in args for n in x.shape):
                return [jnp.zeros(t.shape, t.dtype) for t in operation.types(*args)]
            return operation.compute(*args, cpu=cpu)

    plain = ctx.replace(avals_in=[ShapedArray(x.shape, x.dtype) for x in ctx.avals_in])
    return mlir.lower_fun(compute, multiple_results=True)(plain, *args)


_NO_MESH = jax.sharding.AbstractMesh((), ())

for _platform, _cpu in ((None, False), ("cpu", True)):
    mlir.register_lowering(_warp_p, functools.partial(_lower, cpu=_cpu), _platform)
