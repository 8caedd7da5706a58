"""Convolution as a JAX primitive whose implementation is chosen when a program is lowered.

A convolution is bilinear in input and kernel. With a cotangent of the output,
``<cotangent, convolution(input, kernel)>`` is linear in each of the three, and each of

    output(input, kernel)      input(kernel, cotangent)      kernel(input, cotangent)

contracts this trilinear form with two of its arguments. The three are closed under differentiation:
the derivatives of one are the other two. One primitive represents all three; its parameter
``wanted`` names the result. Axes mapped by ``vmap`` are a parameter too (which of the three arrays
have them), so that nothing depends on the platform before lowering: on CPU, the native kernels, or
where these cannot be called the implementations of this folder; elsewhere
``lax.conv_general_dilated``. The latter two are mapped and transposed by JAX itself.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from stn_jax.models.cpu import fourier, native, tiled
from stn_jax.warp import jax_rules

#: ``with force_implementation(name):`` forces the implementation of everything traced inside,
#: whatever the platform: "lax" is ``lax.conv_general_dilated``, "cpu" the implementations of this
#: folder, "native" the native kernels (an error where they are not available), and None the default
#: for the platform. It is part of the key of ``jax.jit``'s cache. For tests and benchmarks.
force_implementation = jax.make_user_context(None)

INPUT, KERNEL, OUTPUT = range(3)
_NUMBERS = ("NHWC", "HWIO", "NHWC")

Bilinear = Callable[[jax.Array, jax.Array], jax.Array]
Implementation = Callable[..., jax.Array]
# For each mapped axis, outermost first: whether input, kernel and output have it.
Mapped = tuple[tuple[bool, bool, bool], ...]


class Spec(NamedTuple):
    """The static parameters of a convolution.

    Attributes:
      padding: numbers of zeros added before and after, for height and for width.
      precision: as in ``lax.conv_general_dilated``.
      implementation: see :data:`force_implementation`.
    """

    padding: tuple[tuple[int, int], ...]
    precision: Any
    implementation: str | None


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    padding: Sequence[Sequence[int]],
    precision: Any = None,
) -> jax.Array:
    """A convolution of stride 1.

    Args:
      x: input ``[B, H, W, C_in]`` of any float type.
      kernel: ``[h, w, C_in, C_out]``, of the input's type.
      padding: numbers of zeros added before and after, for height and for width; 0 or more.
      precision: as in ``lax.conv_general_dilated``.

    Returns:
      ``[B, H_out, W_out, C_out]``.

    Raises:
      ValueError: :data:`force_implementation` has an unknown value.
    """
    name = force_implementation.value
    if name not in (None, "lax", "cpu", "native"):
        raise ValueError(
            f"force_implementation is {name!r}; expected 'lax', 'cpu', 'native' or None"
        )
    if precision is None:
        precision = getattr(jax.config, "jax_default_matmul_precision", None)
    x, kernel = jax_rules.vary_alike(x, kernel)
    spec = Spec(tuple((low, high) for low, high in padding), precision, name)
    return _convolution_p.bind(x, kernel, wanted=OUTPUT, mapped=(), spec=spec)


# --- shapes and types -----------------------------------------------------------------------------


def _given(wanted: int) -> tuple[int, int]:
    """The roles of the two operands, in order, if the third is wanted."""
    first, second = (role for role in (INPUT, KERNEL, OUTPUT) if role != wanted)
    return first, second


def _result_shape(a: Any, b: Any, wanted: int, mapped: Mapped, spec: Spec) -> tuple[Any, ...]:
    """The shape of the result, from the two operands."""
    shapes = dict(zip(_given(wanted), (a.shape, b.shape), strict=True))
    leading = []
    for i, axis in enumerate(mapped):
        if axis[wanted]:
            role = next(role for role in shapes if axis[role])
            leading.append(shapes[role][sum(before[role] for before in mapped[:i])])
    first, second = a.shape[-4:], b.shape[-4:]
    more = [sum(pads) + 1 for pads in spec.padding]
    if wanted == INPUT:  # from kernel and output
        sides = [o + k - m for o, k, m in zip(second[1:3], first[:2], more, strict=True)]
        return (*leading, second[0], *sides, first[2])
    if wanted == KERNEL:  # from input and output
        sides = [i - o + m for i, o, m in zip(first[1:3], second[1:3], more, strict=True)]
        return (*leading, *sides, first[3], second[3])
    sides = [i - k + m for i, k, m in zip(first[1:3], second[:2], more, strict=True)]
    return (*leading, first[0], *sides, second[3])


def _over_mapped(fn: Bilinear, mapped: Mapped, wanted: int) -> Bilinear:
    """Maps a function over the operands' mapped axes; sums over those its result does not have."""

    def summed(fn: Bilinear) -> Bilinear:
        return lambda a, b: fn(a, b).sum(0)

    for axis in reversed(mapped):
        fn = jax.vmap(fn, [0 if axis[role] else None for role in _given(wanted)])
        fn = fn if axis[wanted] else summed(fn)
    return fn


def _abstract(a: Any, b: Any, *, wanted: int, mapped: Mapped, spec: Spec) -> Any:
    """The type of the result: that of JAX's own sums, products and broadcasts.

    It is thus sharded along the batch axis, and varies over a mesh, as theirs would.
    """
    shape = _result_shape(a, b, wanted, mapped, spec)
    roles = _given(wanted)

    def stand_in(a: jax.Array, b: jax.Array) -> jax.Array:
        sums = [
            x.sum() if role == KERNEL else x.sum((1, 2, 3))
            for role, x in zip(roles, (a, b), strict=True)
        ]
        product = sums[0] * sums[1]
        if wanted == KERNEL:
            return jnp.broadcast_to(product.sum(), shape[-4:])
        return jnp.broadcast_to(product[:, None, None, None], shape[-4:])

    traced = jax.make_jaxpr(_over_mapped(stand_in, mapped, wanted))(a, b)
    return traced.out_avals[0]


# --- the computation ------------------------------------------------------------------------------


def _plain(x: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), [*spec.padding], dimension_numbers=_NUMBERS, precision=spec.precision
    )


def _fast(x: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """The cheaper of the two implementations for CPU that consist of XLA's operations."""
    if not all(isinstance(size, int) for size in (*x.shape[1:], *kernel.shape)):
        return _plain(x, kernel, spec)  # a program exported for maps of any size
    x = jnp.pad(x, ((0, 0), *spec.padding, (0, 0)))
    cheapest = min((fourier, tiled), key=lambda module: module.cost(x.shape, kernel.shape))
    return cheapest.convolution(x, kernel)


def _contraction(
    a: jax.Array,
    b: jax.Array,
    *,
    implementation: Implementation,
    wanted: int,
    mapped: Mapped,
    spec: Spec,
) -> jax.Array:
    """The result by an implementation of the convolution, or by its transposes."""
    if wanted == OUTPUT:
        return _over_mapped(functools.partial(implementation, spec=spec), mapped, OUTPUT)(a, b)
    convolve = functools.partial(
        _contraction, implementation=implementation, wanted=OUTPUT, mapped=mapped, spec=spec
    )
    like = jax.ShapeDtypeStruct(_result_shape(a, b, wanted, mapped, spec), a.dtype)
    if wanted == INPUT:
        (result,) = jax.linear_transpose(lambda x: convolve(x, a), like)(b)
    else:
        (result,) = jax.linear_transpose(lambda kernel: convolve(a, kernel), like)(b)
    return result


def _is_direct(a: Any, b: Any, wanted: int, mapped: Mapped, spec: Spec) -> bool:
    """Whether the native kernels, which compute each product, are the faster implementation.

    Large maps of many channels need far fewer products by the Fourier transform.
    """
    shapes = dict(zip(_given(wanted), (a.shape[-4:], b.shape[-4:]), strict=True))
    shapes[wanted] = _result_shape(a, b, wanted, mapped, spec)[-4:]
    batch, *sides, channels = shapes[INPUT]
    sides = [size + sum(pads) for size, pads in zip(sides, spec.padding, strict=True)]
    products = math.prod(shapes[OUTPUT][:3]) * math.prod(shapes[KERNEL])
    padded = (batch, *sides, channels)
    others = (cost(padded, shapes[KERNEL]) for cost in (fourier.cost, fourier.kernel_cost))
    return sum(others) > _DIRECT * products


# The native kernels' time for a product, in multiplications of the Fourier implementation. With
# this constant, the implementation chosen for each of eleven layers (32 images) was the faster one
# or within 5 % of it.
_DIRECT = 0.9


def _lower(
    ctx: mlir.LoweringRuleContext,
    *operands: Any,
    on_cpu: bool,
    wanted: int,
    mapped: Mapped,
    spec: Spec,
) -> Any:
    """Lowers by the forced implementation, or else the fastest for the platform."""
    name = spec.implementation
    calls_native = False
    if on_cpu and name in (None, "native") and native.is_usable(ctx, required=name == "native"):
        a, b = ctx.avals_in
        calls_native = name == "native" or _is_direct(a, b, wanted, mapped, spec)
    fast = name == "cpu" or (on_cpu and name is None)
    contract = functools.partial(_contraction, implementation=_fast if fast else _plain)

    def compute(a: jax.Array, b: jax.Array) -> list[jax.Array]:
        if not calls_native:
            return [contract(a, b, wanted=wanted, mapped=mapped, spec=spec)]
        shape = _result_shape(a, b, wanted, mapped, spec)
        return [
            native.contraction(
                a, b, wanted=wanted, mapped=mapped, padding=spec.padding, shape=shape
            )
        ]

    return jax_rules.lower(ctx, compute, *operands)


# --- rules for JAX's transformations --------------------------------------------------------------


def _transpose(
    cotangent: Any, a: Any, b: Any, *, at: int, wanted: int, mapped: Mapped, spec: Spec
) -> jax.Array:
    """The cotangent of one operand, from the result's cotangent and the other operand."""
    operands = dict(zip(_given(wanted), (a, b), strict=True))
    target = _given(wanted)[at]
    operands[wanted] = cotangent
    known = [operands[role] for role in _given(target)]
    return _convolution_p.bind(*known, wanted=target, mapped=mapped, spec=spec)


def _batch(
    operands: Any, axes: Any, *, wanted: int, mapped: Mapped, spec: Spec
) -> tuple[jax.Array, int]:
    """Adds a mapped axis before the others."""
    has = dict(zip(_given(wanted), (axis is not None for axis in axes), strict=True))
    new = tuple(has.get(role, True) for role in (INPUT, KERNEL, OUTPUT))
    moved = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    return _convolution_p.bind(*moved, wanted=wanted, mapped=(new, *mapped), spec=spec), 0


_convolution_p = Primitive("stn_convolution")
_convolution_p.def_impl(functools.partial(jax_rules.run, _convolution_p))
_convolution_p.def_abstract_eval(_abstract)
ad.defbilinear(
    _convolution_p, functools.partial(_transpose, at=0), functools.partial(_transpose, at=1)
)
batching.primitive_batchers[_convolution_p] = _batch
for _platform, _on_cpu in ((None, False), ("cpu", True)):
    mlir.register_lowering(
        _convolution_p, functools.partial(_lower, on_cpu=_on_cpu), platform=_platform
    )
