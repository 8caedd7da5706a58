"""Convolution as a JAX primitive whose form is chosen when a program is lowered.

A convolution is linear in the input and linear in the kernel. With a cotangent of the output,
``<cotangent, convolution(input, kernel)>`` is linear in each of the three, and each of

    output(input, kernel)      input(kernel, cotangent)      kernel(input, cotangent)

is the contraction of that form with the two others. These three are closed under differentiation:
the derivatives of one are the other two. One primitive holds them, and what is wanted is one of its
parameters. Mapped axes stay parameters too (which of the three have them), so that all that
depends on the platform happens at lowering: on CPU the native kernels, or where these cannot be
called the forms of this folder; elsewhere ``lax.conv_general_dilated``. The latter two are mapped
and transposed by JAX itself.
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

#: The implementation of what is traced within ``with force_implementation(name):``, whatever the
#: platform: "lax" is ``lax.conv_general_dilated``, "cpu" are the forms for CPU; "native" are the
#: native kernels, on CPU (an error where there are none); None: by platform. It is part of the key
#: by which ``jax.jit`` finds what it has traced. For tests and measurements.
force_implementation = jax.make_user_context(None)

INPUT, KERNEL, OUTPUT = range(3)
_NUMBERS = ("NHWC", "HWIO", "NHWC")

Bilinear = Callable[[jax.Array, jax.Array], jax.Array]
Form = Callable[..., jax.Array]
# For each mapped axis, outermost first: whether input, kernel and output have it.
Mapped = tuple[tuple[bool, bool, bool], ...]


class Spec(NamedTuple):
    """What a convolution is, apart from its arrays.

    Attributes:
      padding: values added before and after, of height and of width.
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
    """A convolution of stride 1, ``[B, H, W, C_in]`` and ``[h, w, C_in, C_out]``, any float type.

    Args:
      x: input ``[B, H, W, C_in]``.
      kernel: ``[h, w, C_in, C_out]``, of the input's type.
      padding: values added before and after, of height and of width; 0 or more.
      precision: as in ``lax.conv_general_dilated``.

    Returns:
      ``[B, H_out, W_out, C_out]``.
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
    """The roles of the two operands where the third is wanted, in order."""
    first, second = (role for role in (INPUT, KERNEL, OUTPUT) if role != wanted)
    return first, second


def _result_shape(a: Any, b: Any, wanted: int, mapped: Mapped, spec: Spec) -> tuple[Any, ...]:
    """The shape of what is wanted, from the two operands."""
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
    """Maps a function of the two operands; sums over axes that its result does not have."""

    def summed(fn: Bilinear) -> Bilinear:
        return lambda a, b: fn(a, b).sum(0)

    for axis in reversed(mapped):
        fn = jax.vmap(fn, [0 if axis[role] else None for role in _given(wanted)])
        fn = fn if axis[wanted] else summed(fn)
    return fn


def _abstract(a: Any, b: Any, *, wanted: int, mapped: Mapped, spec: Spec) -> Any:
    """The type of the result: what JAX's own sums, products and broadcasts give.

    So that it is sharded along the axis of examples, and varies over a mesh, as these would be.
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
    """The form for CPU, of those made of XLA's operations, that takes less time."""
    if not all(isinstance(size, int) for size in (*x.shape[1:], *kernel.shape)):
        return _plain(x, kernel, spec)  # an exported program, of maps of any size
    x = jnp.pad(x, ((0, 0), *spec.padding, (0, 0)))
    cheapest = min((fourier, tiled), key=lambda form: form.cost(x.shape, kernel.shape))
    return cheapest.convolution(x, kernel)


def _contraction(
    a: jax.Array, b: jax.Array, *, form: Form, wanted: int, mapped: Mapped, spec: Spec
) -> jax.Array:
    """What is wanted, by a form of the convolution or by that form's transposes."""
    if wanted == OUTPUT:
        return _over_mapped(functools.partial(form, spec=spec), mapped, OUTPUT)(a, b)
    convolve = functools.partial(_contraction, form=form, wanted=OUTPUT, mapped=mapped, spec=spec)
    like = jax.ShapeDtypeStruct(_result_shape(a, b, wanted, mapped, spec), a.dtype)
    if wanted == INPUT:
        (result,) = jax.linear_transpose(lambda x: convolve(x, a), like)(b)
    else:
        (result,) = jax.linear_transpose(lambda kernel: convolve(a, kernel), like)(b)
    return result


def _is_direct(a: Any, b: Any, wanted: int, mapped: Mapped, spec: Spec) -> bool:
    """Whether the native kernels, which take all products one by one, take less time.

    Large maps of many channels need so many fewer of them in the Fourier form that it is faster.
    """
    shapes = dict(zip(_given(wanted), (a.shape[-4:], b.shape[-4:]), strict=True))
    shapes[wanted] = _result_shape(a, b, wanted, mapped, spec)[-4:]
    batch, *sides, channels = shapes[INPUT]
    sides = [size + sum(pads) for size, pads in zip(sides, spec.padding, strict=True)]
    products = math.prod(shapes[OUTPUT][:3]) * math.prod(shapes[KERNEL])
    padded = (batch, *sides, channels)
    others = (cost(padded, shapes[KERNEL]) for cost in (fourier.cost, fourier.kernel_cost))
    return sum(others) > _DIRECT * products


# The native kernels' time for a product, in multiplications of the Fourier form: with it the faster
# of the two was chosen for each of eleven layers, for 32 images, or one within a twentieth of it.
_DIRECT = 0.9


def _lower(
    ctx: mlir.LoweringRuleContext,
    *operands: Any,
    on_cpu: bool,
    wanted: int,
    mapped: Mapped,
    spec: Spec,
) -> Any:
    """Lowers by the form that the call asked for, or else the fastest for the platform."""
    name = spec.implementation
    calls_native = False
    if on_cpu and name in (None, "native") and native.is_usable(ctx, required=name == "native"):
        a, b = ctx.avals_in
        calls_native = name == "native" or _is_direct(a, b, wanted, mapped, spec)
    form = _fast if name == "cpu" or (on_cpu and name is None) else _plain

    def compute(a: jax.Array, b: jax.Array) -> list[jax.Array]:
        if not calls_native:
            return [_contraction(a, b, form=form, wanted=wanted, mapped=mapped, spec=spec)]
        shape = _result_shape(a, b, wanted, mapped, spec)
        return [
            native.contraction(
                a, b, wanted=wanted, mapped=mapped, padding=spec.padding, shape=shape
            )
        ]

    return jax_rules.lower(ctx, compute, *operands)


# --- what JAX does with it ------------------------------------------------------------------------


def _transpose(
    cotangent: Any, a: Any, b: Any, *, at: int, wanted: int, mapped: Mapped, spec: Spec
) -> jax.Array:
    """The cotangent of one operand: the cotangent of the result takes the result's place."""
    operands = dict(zip(_given(wanted), (a, b), strict=True))
    target = _given(wanted)[at]
    operands[wanted] = cotangent
    known = [operands[role] for role in _given(target)]
    return _convolution_p.bind(*known, wanted=target, mapped=mapped, spec=spec)


def _batch(
    operands: Any, axes: Any, *, wanted: int, mapped: Mapped, spec: Spec
) -> tuple[jax.Array, int]:
    """One more mapped axis, before the others."""
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
