"""Weighted sums of pixels: the linear algebra under sampling, and how each platform computes it.

A sample is made of a few pixels, its taps. With ``index[k][n]`` the k-th tap of sample n, and for
each image of a batch alike:

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
    bounded: bool = False,
) -> jax.Array:
    """Weighted sums of pixels.

    Args:
      pixels: ``[B, P, C]``.
      index: arrays ``[B, N]`` of int32; a negative one counts as a pixel of zeros, whatever its
        weight.
      weights: K arrays ``[B, N]`` in the type of pixels.
      offsets: every index stands for as many taps, which lie that much further on. K is the
        number of indices times that of offsets, with the offsets running fastest; all taps are
        in [0, P).
      bounded: whether no index is negative.

    Returns:
      ``[B, N, C]``.

    Raises:
      ValueError: an image has more pixels than an int32 can count.
    """
    if pixels.shape[1] >= 2**31:
        raise ValueError(
            f"the image has {pixels.shape[1]} pixels, more than 2**31 - 1; sample parts of it"
        )
    options = {"offsets": offsets, "bounded": bounded, "forms": _forms}
    return _gather_p.bind(pixels, *index, *weights, **options)


def settled(x: jax.Array) -> jax.Array:
    """x, in a form that every use of it sees the same bits of.

    XLA may compute a value once for each use, and then rounds it once for each use too: with a
    fused multiply-add here and without one there. A position whose floor differs between the
    index of a tap and its weight is a whole pixel off.
    """
    return _settled_p.bind(x)


# --- how each operation is computed --------------------------------------------------------------


def _gather(cpu: bool, pixels, *taps, offsets, bounded, forms):
    def compute(pixels, *taps):
        index, weights = _index_and_weights(taps, offsets)
        terms = []
        for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
            value = _rows(pixels, i + offset)
            if not bounded:
                # Not a product with 0: it would let an infinity or NaN through.
                value = jnp.where((i >= 0)[..., None], value, 0)
            terms.append(value * w[..., None])
        return functools.reduce(jnp.add, terms)

    # Else XLA would compute what a layer before makes of its output once for each tap. Where there
    # are more samples than pixels (points looked up in a map) a branch costs more than that.
    _, size, channels = pixels.shape
    layer = channels >= 8 and taps[0].shape[-1] <= size
    return _unfused(compute, pixels, *taps) if cpu and layer else compute(pixels, *taps)


def _scatter(cpu: bool, values, *taps, size, offsets, bounded, forms):
    batch, samples, channels = values.shape
    small = max(size, samples) <= 256 and channels >= (128 if cpu else 16)
    form = forms.scatter or ("dense" if small else "added")

    def dense(values, *taps):
        index, weights = _index_and_weights(taps, offsets)
        place = jnp.arange(size, dtype=jnp.int32)[:, None]
        matrix = []
        for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
            i, w = i[:, None], w[:, None]
            hit = i + offset == place
            matrix.append(jnp.where(hit if bounded else hit & (i >= 0), w, 0))
        return lax.dot_general(
            functools.reduce(jnp.add, matrix),
            values,
            (((2,), (1,)), ((0,), (0,))),
            precision=lax.Precision.HIGHEST,  # TF32 would be off by 1e-3
        )

    def added(values, *taps):
        index, weights = _index_and_weights(taps, offsets)
        total = jnp.zeros((len(values), size, channels), values.dtype)
        for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
            # XLA leaves out what is out of bounds.
            place = i + offset if bounded else jnp.where(i < 0, -1, i + offset)
            total = lax.scatter_add(
                total,
                place[..., None],
                values * w[..., None],
                lax.ScatterDimensionNumbers((2,), (1,), (1,), (0,), (0,)),
                mode=lax.GatherScatterMode.FILL_OR_DROP,
            )
        return total

    if form == "dense":
        return _unfused(dense, values, *taps) if cpu else dense(values, *taps)
    # On CPU a scatter is a loop on one core, but several run at a time. (In a branch they would
    # run one after the other.)
    parts = math.gcd(batch, 4) if cpu else 1
    split = [jnp.split(x, parts) for x in (values, *taps)]
    return jnp.concatenate([added(*part) for part in zip(*split, strict=True)])


def _dots(cpu: bool, values, pixels, *index, offsets, bounded, forms):
    batch, size, channels = pixels.shape
    few = channels <= 4 and size * channels < 2**31
    form = forms.dots or ("summed" if not cpu else "unrolled" if few else "folded")

    def compute(*args):
        *index, values, pixels = args
        totals = []
        for i, offset in itertools.product(index, offsets):
            place = i + offset
            if form == "unrolled":
                flat = pixels.reshape(batch, size * channels, 1)
                products = [
                    _rows(flat, place * channels + c)[..., 0] * values[..., c]
                    for c in range(channels)
                ]
                total = functools.reduce(jnp.add, products)
            else:
                product = _rows(pixels, place) * values
                total = _folded(product) if form == "folded" else product.sum(-1)
            totals.append(total if bounded else jnp.where(i < 0, 0, total))
        return totals

    # Otherwise XLA on CPU computes the indices again for each tap and channel, in scalar code.
    return _unfused(compute, *index, values, pixels) if cpu else compute(*index, values, pixels)


def _settled(cpu: bool, x):
    return _unfused(lambda x: x, x) if cpu else lax.optimization_barrier(x)


def _unfused(compute: Callable[..., Any], *args: jax.Array) -> Any:
    """compute(*args), fused with nothing that comes before or after: the arguments are stored.

    For CPU, where XLA drops optimization_barrier; what is a branch of its program it leaves
    alone. The other branch is never taken, as XLA cannot know.
    """
    shapes = jax.eval_shape(compute, *args)

    def nothing(*args):
        # Of all arguments, so that under shard_map it varies over the axes that they vary over.
        zero = functools.reduce(jnp.add, [x.reshape(-1)[0] * 0 for x in args])
        return jax.tree.map(lambda s: jnp.full(s.shape, zero, s.dtype), shapes)

    first = args[0].reshape(-1)[0]
    bits = lax.bitcast_convert_type(first, f"int{8 * first.dtype.itemsize}")
    return lax.cond(lax.population_count(bits) < 65, compute, nothing, *args)


def _folded(x: jax.Array) -> jax.Array:
    """The sum over the last axis, by halves: element-wise operations, which XLA vectorises."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        rest = x[..., 2 * half :]
        x = x[..., :half] + x[..., half : 2 * half]
        if rest.shape[-1]:
            x = jnp.concatenate([x[..., :1] + rest, x[..., 1:]], -1)
    return x[..., 0]


def _rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[b, index[b, n]]; where an index is negative, any row."""
    return lax.gather(
        x,
        index[..., None],
        lax.GatherDimensionNumbers((2,), (1,), (1,), (0,), (0,)),
        (1, 1, x.shape[2]),
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
        # By tracing, so that JAX's own rules tell over which mesh axes the result varies.
        out = jax.make_jaxpr(functools.partial(compute, False, **params))(*args).out_avals
        return out if several else out[0]

    primitive.def_impl(lambda *args, **params: compiled(**params)(*args))
    primitive.def_abstract_eval(shaped)
    for platform, cpu in ((None, False), ("cpu", True)):
        rule = mlir.lower_fun(functools.partial(compute, cpu), multiple_results=several)
        mlir.register_lowering(primitive, rule, platform)
    return primitive


_gather_p = _primitive("tap_gather", _gather)
_scatter_p = _primitive("tap_scatter", _scatter)
_dots_p = _primitive("tap_dots", _dots, several=True)
_settled_p = _primitive("settled", _settled)
ad.deflinear2(_settled_p, lambda ct, _: [ct])
batching.defvectorized(_settled_p)


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
    dfirst, dweights = _tangents(tangents[:1]), _tangents(tangents[1 + len(index) :])
    terms = []
    if dfirst is not None:
        terms.append(primitive.bind(*dfirst, *index, *weights, **params))
    if dweights is not None:
        terms.append(primitive.bind(first, *index, *dweights, **params))
    return primitive.bind(*primals, **params), _total(terms)


def _gather_transpose(ct, pixels, *taps, **params):
    index, _ = _index_and_weights(taps, params["offsets"])
    if ad.is_undefined_primal(pixels):
        size = pixels.aval.shape[1]
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
    size = pixels.aval.shape[1]
    gradient = _scatter_p.bind(values, *index, *cts, size=size, **params)
    return [None, gradient, *(None for _ in index)]


for _primitive_, _jvp, _transpose in (
    (_gather_p, functools.partial(_weighted_jvp, _gather_p), _gather_transpose),
    (_scatter_p, functools.partial(_weighted_jvp, _scatter_p), _scatter_transpose),
    (_dots_p, _dots_jvp, _dots_transpose),
):
    ad.primitive_jvps[_primitive_] = _jvp
    ad.primitive_transposes[_primitive_] = _transpose


# Mapping: the mapped axis becomes part of the batch or, where the pixels are the same for all and
# need no copy, part of the samples.


def _in_front(x: jax.Array, dim: int | None, size: int) -> jax.Array:
    return jnp.broadcast_to(x, (size, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)


def _joined(x: jax.Array, dim: int | None, size: int, axis: int) -> jax.Array:
    """The mapped axis joined with the batch (axis 0) or the samples (axis 1)."""
    x = jnp.moveaxis(_in_front(x, dim, size), 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _batched(primitive: Primitive, place: int | None, args, dims, **params):
    """Maps a primitive whose argument number ``place`` are the pixels, if it has them."""
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    axis = 1 if place is not None and dims[place] is None else 0
    joined = [
        x if axis == 1 and k == place else _joined(x, d, size, axis)
        for k, (x, d) in enumerate(zip(args, dims, strict=True))
    ]
    out = primitive.bind(*joined, **params)

    def apart(x):
        return x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :])

    if primitive.multiple_results:
        return [apart(x) for x in out], [axis] * len(out)
    return apart(out), axis


for _primitive_, _place in ((_gather_p, 0), (_scatter_p, None), (_dots_p, 1)):
    batching.primitive_batchers[_primitive_] = functools.partial(_batched, _primitive_, _place)
