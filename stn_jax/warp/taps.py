"""Weighted sums of pixels: the linear algebra under sampling, and how each platform computes it.

A sample is made of a few pixels, its taps. With ``index[k][n]`` the k-th tap of sample n:

    gather(pixels, index, weights)[n]  = sum over k of weights[k][n] * pixels[index[k][n]]
    scatter(values, index, weights)[p] = sum over k, n with index[k][n] = p
                                         of weights[k][n] * values[n]
    dots(values, pixels, index)[k][n]  = inner product of values[n] and pixels[index[k][n]]

Each is bilinear, and the derivatives of any are the other two, so sampling can be differentiated
in any mode and any number of times. They are primitives of JAX because nothing less says how to
transpose: autodiff makes of four gathers four scatters, each into an array of its own, and sums
over channels that XLA runs as scalar loops on CPU.

Every operation has several forms that give the same values. The fastest is chosen when a program
is lowered, from the platform and the shapes (``docs/performance.md`` has the measurements).
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Arrays = Sequence[jax.Array]


class Forms(NamedTuple):
    """Names of the forms to use; None: the fastest for platform and shapes."""

    gather: str | None = None  # "masked" or "margin"
    scatter: str | None = None  # "added" or "dense"
    dots: str | None = None  # "summed", "folded" or "unrolled"


_forms = Forms()


@contextlib.contextmanager
def using(**forms: str) -> Iterator[None]:
    """Fixes forms for what is traced inside, for tests and measurements."""
    global _forms
    before, _forms = _forms, Forms(**forms)
    try:
        yield
    finally:
        _forms = before


def wants_margin(channels: int) -> bool:
    """Whether images should come with a margin of zeros, and taps that never fall outside it.

    On CPU a select in the loop over a few channels keeps it from being vectorised; copying the
    image costs less.
    """
    few = channels < 8 and jax.default_backend() == "cpu"
    return few if _forms.gather is None else _forms.gather == "margin"


def gather(
    pixels: jax.Array,
    index: Arrays,
    weights: Arrays,
    *,
    offsets: tuple[int, ...] = (0,),
    groups: int = 1,
    bounded: bool = False,
) -> jax.Array:
    """Weighted sums of pixels.

    Args:
      pixels: ``[P, C]``.
      index: arrays ``[N]`` of int32; a negative one counts as a pixel of zeros, whatever its
        weight.
      weights: K arrays ``[N]`` in the type of pixels.
      offsets: every index stands for as many taps, which lie that much further on. K is the
        number of indices times that of offsets, with the offsets running fastest; all taps are
        in [0, P).
      groups: samples and pixels are this many equal parts, and each part of the samples refers
        to its own part of the pixels: the images of a batch.
      bounded: whether no index is negative.

    Returns:
      ``[N, C]``.

    Raises:
      ValueError: there are more pixels than an int32 can count.
    """
    options = {"offsets": offsets, "groups": groups, "bounded": bounded, "forms": _forms}
    return _gather_p.bind(pixels, *index, *weights, **options)


# --- how each operation is computed --------------------------------------------------------------


def _gather(cpu: bool, pixels, *taps, offsets, groups, bounded, forms):
    if pixels.shape[0] >= 2**31:
        raise ValueError(
            f"the images have {pixels.shape[0]} pixels together, more than 2**31 - 1; sample them "
            "in several calls"
        )
    index, weights = _index_and_weights(taps, offsets)
    terms = []
    for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
        value = _rows(pixels, i + offset)
        if not bounded:
            # Not a product with 0: it would let an infinity or NaN through.
            value = jnp.where((i >= 0)[:, None], value, 0)
        terms.append(value * w[:, None])
    return functools.reduce(jnp.add, terms)


def _scatter(cpu: bool, values, *taps, size, offsets, groups, bounded, forms):
    channels = values.shape[1]
    pixels, samples = size // groups, values.shape[0] // groups
    small = max(pixels, samples) <= 256 and channels >= (128 if cpu else 16)
    form = forms.scatter or ("dense" if small else "added")

    def dense(values, *taps):
        index, weights = _index_and_weights(taps, offsets)
        start = jnp.arange(groups, dtype=jnp.int32)[:, None] * pixels
        place = jnp.arange(pixels, dtype=jnp.int32)[:, None]
        matrix = []
        for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
            own = (i.reshape(groups, -1) - start + offset)[:, None]
            matrix.append(jnp.where(own == place, w.reshape(groups, 1, -1), 0))
        sums = lax.dot_general(
            functools.reduce(jnp.add, matrix),
            values.reshape(groups, -1, channels),
            (((2,), (1,)), ((0,), (0,))),
            precision=lax.Precision.HIGHEST,  # TF32 would be off by 1e-3
        )
        return sums.reshape(size, channels)

    # On CPU a scatter is a loop on one core, but several run at a time.
    parts = math.gcd(groups, 4) if cpu else 1
    rows, width = size // parts, values.shape[0] // parts

    def added(values, *taps):
        index, weights = _index_and_weights(taps, offsets)
        sums = []
        for part in range(parts):
            own = slice(part * width, (part + 1) * width)
            total = jnp.zeros((rows, channels), values.dtype)
            for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
                place = i[own] + (offset - part * rows)
                if not bounded:
                    place = jnp.where(i[own] < 0, -1, place)  # XLA skips what is out of bounds
                total = lax.scatter_add(
                    total,
                    place[:, None],
                    values[own] * w[own, None],
                    lax.ScatterDimensionNumbers((1,), (0,), (0,)),
                    mode=lax.GatherScatterMode.FILL_OR_DROP,
                )
            sums.append(total)
        return jnp.concatenate(sums) if parts > 1 else sums[0]

    if form == "dense":
        return _stored(cpu, taps[0], dense, values, *taps)
    return added(values, *taps)  # in a branch they would run one after the other


def _dots(cpu: bool, values, pixels, *index, offsets, groups, bounded, forms):
    channels = values.shape[1]
    few = channels <= 4 and pixels.size < 2**31
    form = forms.dots or ("summed" if not cpu else "unrolled" if few else "folded")

    def compute(values, pixels, *index):
        flat = pixels.reshape(-1, 1)
        totals = []
        for i, offset in itertools.product(index, offsets):
            place = i + offset
            if form == "unrolled":
                products = [
                    _rows(flat, place * channels + c)[:, 0] * values[:, c] for c in range(channels)
                ]
                total = functools.reduce(jnp.add, products)
            else:
                product = _rows(pixels, place) * values
                total = _folded(product) if form == "folded" else product.sum(-1)
            totals.append(total if bounded else jnp.where(i < 0, 0, total))
        return totals

    return _stored(cpu, index[0], compute, values, pixels, *index)


def _stored(cpu: bool, index: jax.Array, compute: Callable[..., Any], *args: jax.Array) -> Any:
    """compute(*args), on CPU with arguments that are stored arrays.

    XLA fuses whatever it can and would compute the indices and weights again for each tap and
    channel, in scalar code; optimization_barrier does not keep it from that on CPU. Into a
    branch, which is what compute is here, nothing is fused. The other one is never taken.
    """
    if not cpu:
        return compute(*args)
    shapes = jax.eval_shape(compute, *args)
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    always = index.min() < 2**31 - 1  # which XLA cannot know
    return lax.cond(always, compute, lambda *_: nothing, *args)


def _folded(x: jax.Array) -> jax.Array:
    """The sum over the last axis, by halves: element-wise operations, which XLA vectorises."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        rest = x[:, 2 * half :]
        x = x[:, :half] + x[:, half : 2 * half]
        if rest.shape[1]:
            x = jnp.concatenate([x[:, :1] + rest, x[:, 1:]], 1)
    return x[:, 0]


def _rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[index] for indices that are not negative; where one is, any row."""
    return lax.gather(
        x,
        index[:, None],
        lax.GatherDimensionNumbers((1,), (0,), (0,)),
        (1, x.shape[1]),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,  # XLA clamps
    )


def _index_and_weights(taps: Arrays, offsets: tuple[int, ...]) -> tuple[Arrays, Arrays]:
    count = len(taps) // (1 + len(offsets))
    return taps[:count], taps[count:]


# --- the primitives ------------------------------------------------------------------------------


def _primitive(name: str, compute: Callable[..., Any], *, several: bool = False) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = several

    @functools.cache
    def compiled(**params):
        return jax.jit(functools.partial(primitive.bind, **params))

    def shaped(*args, **params):
        out = jax.eval_shape(functools.partial(compute, False, **params), *args)
        return jax.tree.map(lambda s: jax.core.ShapedArray(s.shape, s.dtype), out)

    primitive.def_impl(lambda *args, **params: compiled(**params)(*args))
    primitive.def_abstract_eval(shaped)
    for platform, cpu in ((None, False), ("cpu", True)):
        rule = mlir.lower_fun(functools.partial(compute, cpu), multiple_results=several)
        mlir.register_lowering(primitive, rule, platform)
    return primitive


_gather_p = _primitive("tap_gather", _gather)
_scatter_p = _primitive("tap_scatter", _scatter)
_dots_p = _primitive("tap_dots", _dots, several=True)


# Derivatives. Pixels, values and weights are the linear arguments; an index has no tangent.


def _tangents(tangents: Sequence[Any]) -> list[jax.Array] | None:
    """Tangents as arrays; None where all are zero."""
    if all(type(t) is ad.Zero for t in tangents):
        return None
    return [ad.instantiate_zeros(t) for t in tangents]


def _total(terms: list[Any]) -> Any:
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), terms)


def _weighted_jvp(primitive: Primitive, primals, tangents, **params):
    """Of gather and scatter: linear in the first argument and in the weights together."""
    first, (index, weights) = primals[0], _index_and_weights(primals[1:], params["offsets"])
    dfirst, dweights = (
        _tangents(tangents[:1]),
        _tangents(_index_and_weights(tangents[1:], params["offsets"])[1]),
    )
    terms = []
    if dfirst is not None:
        terms.append(primitive.bind(*dfirst, *index, *weights, **params))
    if dweights is not None:
        terms.append(primitive.bind(first, *index, *dweights, **params))
    return primitive.bind(*primals, **params), _total(terms)


def _gather_transpose(ct, pixels, *taps, **params):
    index, _ = _index_and_weights(taps, params["offsets"])
    if ad.is_undefined_primal(pixels):
        size = pixels.aval.shape[0]
        return [_scatter_p.bind(ct, *taps, size=size, **params), *(None for _ in taps)]
    return [None, *(None for _ in index), *_dots_p.bind(ct, pixels, *index, **params)]


def _scatter_transpose(ct, values, *taps, size, **params):
    index, _ = _index_and_weights(taps, params["offsets"])
    if ad.is_undefined_primal(values):
        return [_gather_p.bind(ct, *taps, **params), *(None for _ in taps)]
    return [None, *(None for _ in index), *_dots_p.bind(values, ct, *index, **params)]


def _dots_jvp(primals, tangents, **params):
    values, pixels, *index = primals
    dvalues, dpixels = _tangents(tangents[:1]), _tangents(tangents[1:2])
    terms = []
    if dvalues is not None:
        terms.append(_dots_p.bind(*dvalues, pixels, *index, **params))
    if dpixels is not None:
        terms.append(_dots_p.bind(values, *dpixels, *index, **params))
    return _dots_p.bind(*primals, **params), _total(terms)


def _dots_transpose(cts, values, pixels, *index, **params):
    cts = [ad.instantiate_zeros(ct) for ct in cts]
    if ad.is_undefined_primal(values):
        return [_gather_p.bind(pixels, *index, *cts, **params), None, *(None for _ in index)]
    size = pixels.aval.shape[0]
    gradient = _scatter_p.bind(values, *index, *cts, size=size, **params)
    return [None, gradient, *(None for _ in index)]


for _primitive_, _jvp, _transpose in (
    (_gather_p, functools.partial(_weighted_jvp, _gather_p), _gather_transpose),
    (_scatter_p, functools.partial(_weighted_jvp, _scatter_p), _scatter_transpose),
    (_dots_p, _dots_jvp, _dots_transpose),
):
    ad.primitive_jvps[_primitive_] = _jvp
    ad.primitive_transposes[_primitive_] = _transpose


# Mapping: the mapped axis becomes one more division of samples and pixels, which lie one behind
# the other.


def _mapped_size(args: Sequence[Any], dims: Sequence[int | None]) -> int:
    return next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)


def _in_front(x: jax.Array, dim: int | None, size: int) -> jax.Array:
    """The mapped axis as the first one."""
    return jnp.broadcast_to(x, (size, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)


def _flat(x: jax.Array, dim: int | None, size: int) -> jax.Array:
    x = _in_front(x, dim, size)
    return x.reshape(-1, *x.shape[2:])


def _flat_index(i: jax.Array, dim: int | None, size: int, pixels: int) -> jax.Array:
    i = _in_front(i, dim, size)
    first = jnp.arange(size, dtype=jnp.int32)[:, None] * pixels
    return jnp.where(i < 0, i, i + first).reshape(-1)


def _sampling_batch(primitive: Primitive, args, dims, *, groups, **params):
    """Of gather and dots, where pixels that are the same for all need no copy."""
    size = _mapped_size(args, dims)
    count = 1 if primitive is _gather_p else 2
    taps, tap_dims = args[count:], dims[count:]
    shared = dims[count - 1] is None
    pixels = args[count - 1] if shared else _flat(args[count - 1], dims[count - 1], size)
    step = 0 if shared else pixels.shape[0] // size
    flat = [_flat(x, d, size) for x, d in zip(args[: count - 1], dims[: count - 1], strict=True)]
    flat.append(pixels)
    for x, d in zip(taps, tap_dims, strict=True):
        is_index = jnp.issubdtype(x.dtype, jnp.integer)
        flat.append(_flat_index(x, d, size, step) if is_index else _flat(x, d, size))
    out = primitive.bind(*flat, groups=1 if shared else groups * size, **params)
    if primitive is _gather_p:
        return out.reshape(size, -1, out.shape[1]), 0
    return [x.reshape(size, -1) for x in out], [0] * len(out)


def _scatter_batch(args, dims, *, size, groups, **params):
    count = _mapped_size(args, dims)
    flat = [
        _flat_index(x, d, count, size)
        if jnp.issubdtype(x.dtype, jnp.integer)
        else _flat(x, d, count)
        for x, d in zip(args, dims, strict=True)
    ]
    out = _scatter_p.bind(*flat, size=size * count, groups=groups * count, **params)
    return out.reshape(count, size, -1), 0


for _primitive_ in (_gather_p, _dots_p):
    batching.primitive_batchers[_primitive_] = functools.partial(_sampling_batch, _primitive_)
batching.primitive_batchers[_scatter_p] = _scatter_batch
