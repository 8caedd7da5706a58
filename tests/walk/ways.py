"""The ways in which JAX may run a function, each against the function as it stands."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from subject import Subject


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Trees of the same shapes and nearly the same numbers."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def loss_of(call: Callable[..., Any]) -> Callable[..., jax.Array]:
    """A nonlinear number made of all that a function gives."""
    return lambda *args: sum(jnp.sin(x).sum() for x in jax.tree.leaves(call(*args)))


def arrays(subject: Subject, whole: int | None = None) -> list[jax.Array]:
    """Its arguments, that numbered ``whole`` without the batch axis."""
    return [jnp.asarray(x[0] if k == whole else x) for k, x in enumerate(subject.args)]


def every(subject: Subject) -> tuple[int, ...]:
    return tuple(range(len(subject.args)))


def value_and_gradients(subject: Subject) -> Callable[..., Any]:
    return jax.value_and_grad(loss_of(subject.call), every(subject))


EXPECTED: dict[Any, Any] = {}  # most ways ask for the same


def expected(subject: Subject, whole: int | None = None) -> Any:
    key = id(subject), whole
    if key not in EXPECTED:
        found = jax.jit(value_and_gradients(subject))(*arrays(subject, whole))
        EXPECTED[key] = jax.device_get(found)
    return EXPECTED[key]


# --- one device ----------------------------------------------------------------------------------


def jit(subject):
    close(jax.jit(subject.call)(*arrays(subject)), subject.call(*arrays(subject)))


def vmap(subject):
    """Over all arguments, and over each alone."""
    args = arrays(subject)
    ones = [x[:1] for x in args]
    several = [jnp.stack([x[:1], 0.9 * x[:1]]) for x in args]
    every_axis = [[k == j for j in every(subject)] for k in every(subject)] + [[True] * len(args)]
    call, gradient = jax.jit(subject.call), jax.jit(jax.grad(loss_of(subject.call)))
    for mapped in every_axis:
        given = [b if m else a for a, b, m in zip(ones, several, mapped, strict=True)]
        axes = tuple(0 if m else None for m in mapped)
        found = jax.jit(jax.vmap(subject.call, axes))(*given)
        for k in range(2):
            own = [x[k] if m else x for x, m in zip(given, mapped, strict=True)]
            close(jax.tree.map(lambda x, k=k: x[k], found), call(*own))
        close(jax.jit(jax.vmap(gradient, axes))(*given)[1], gradient(*own))


def mapped_gradients(subject):
    """Values and gradients, compiled, for each of two and mapped over both."""
    pairs = [x[:2, None] for x in arrays(subject)]
    both = jax.jit(jax.vmap(value_and_gradients(subject)))(*pairs)
    one = jax.jit(value_and_gradients(subject))
    for k in range(2):
        close(jax.tree.map(lambda x, k=k: x[k], both), one(*(x[k] for x in pairs)))


def vmap_of_none_and_one(subject):
    """An axis of size 0 and of size 1."""
    for count in (0, 1):
        given = [jnp.broadcast_to(x[:1], (count, *x[:1].shape)) for x in arrays(subject)]
        found = jax.jit(jax.vmap(subject.call))(*given)
        one = jax.jit(subject.call)(*(x[:1] for x in arrays(subject)))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
            assert a.shape == (count, *b.shape)
        if count:
            close(jax.tree.map(lambda x: x[0], found), one)


def derivatives(subject):
    """Forward and reverse, first and second order, against differences of the order before."""
    loss = loss_of(subject.call)
    rng = np.random.default_rng(0)
    # Small enough that no position crosses a pixel in float64.
    step = 1e-6
    with jax.enable_x64(True):
        args = [jnp.asarray(x, jnp.float64) for x in arrays(subject)]
        directions = tuple(jnp.asarray(rng.normal(size=x.shape)) for x in args)

        @jax.jit
        def orders(*args):
            slope = lambda *args: jax.jvp(loss, args, directions)  # noqa: E731
            value, forward = slope(*args)
            gradients, second = jax.jvp(jax.grad(loss, every(subject)), args, directions)
            reverse = jax.grad(lambda *args: slope(*args)[1], every(subject))(*args)
            return value, forward, gradients, second, reverse

        up, here, down = (
            orders(*(x + sign * step * d for x, d in zip(args, directions, strict=True)))
            for sign in (1, 0, -1)
        )
        value, _, gradients, *_ = jax.tree.map(lambda a, b: (a - b) / (2 * step), up, down)
        _, forward, gradient, second, reverse = here
        found = sum((g * d).sum() for g, d in zip(gradient, directions, strict=True))
        close(found, forward, 1e-6)
        close(found, value, 1e-4)
        close(second, gradients, 2e-3)
        close(reverse, second, 1e-6)


def linearize(subject):
    args = arrays(subject)
    value, tangent = jax.linearize(loss_of(subject.call), *args)
    _, expected_tangent = jax.jvp(loss_of(subject.call), args, args)
    close((value, tangent(*args)), (loss_of(subject.call)(*args), expected_tangent))


def remat(subject):
    again = jax.checkpoint(subject.call)
    found = jax.jit(jax.value_and_grad(loss_of(again), every(subject)))(*arrays(subject))
    close(found, expected(subject))


def loops(subject):
    """scan and lax.map over the batch, with gradients."""
    rows = tuple(x[:2, None] for x in arrays(subject))
    looped = lambda *rows: jax.lax.map(lambda row: subject.call(*row), rows)  # noqa: E731
    mapped = lambda *rows: jax.vmap(subject.call)(*rows)  # noqa: E731
    found, other = (
        jax.jit(jax.value_and_grad(loss_of(f), every(subject)))(*rows) for f in (looped, mapped)
    )
    close(found, other)


def disable_jit(subject):
    with jax.disable_jit():
        found = value_and_gradients(subject)(*arrays(subject))
    close(found, expected(subject))


def ahead_of_time(subject):
    program = jax.jit(value_and_gradients(subject)).lower(*arrays(subject)).compile()
    close(program(*arrays(subject)), expected(subject))


def strict(subject):
    """Rank promotion, type promotion, NaNs, leaks and transfers all watched over."""
    args = arrays(subject)
    right = expected(subject)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.debug_nans(True))
        subject.call(*args)
        with jax.checking_leaks():
            # Made here: programs traced before were not watched.
            program = jax.jit(lambda *args: value_and_gradients(subject)(*args))
            found = program(*args)
        with jax.transfer_guard("disallow"):
            program(*args)
    close(found, right)


def double(subject):
    with jax.enable_x64(True):
        args = [jnp.asarray(x, jnp.float64) for x in subject.args]
        found = subject.call(*args)
    close(found, subject.call(*arrays(subject)))


def exported(subject):
    """For every platform, alone and together, from this host; with open sizes where it has any."""
    args = arrays(subject)
    program = jax.jit(value_and_gradients(subject))
    one_by_one = [("cuda",), ("tpu",), ("cpu",)]
    together = [("cpu", "cuda", "tpu")]
    if subject.symbolic:
        scope = jax.export.SymbolicScope()
        shapes = [jax.export.symbolic_shape(s, scope=scope) for s in subject.symbolic]
        open_sizes = [
            jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in zip(shapes, args, strict=True)
        ]
        trials = [(open_sizes, one_by_one), (args, together)]
    else:
        trials = [(args, [*one_by_one[:2], *together])]
    for sizes, several in trials:
        for platforms in several:
            made = jax.export.export(program, platforms=platforms)(*sizes)
        close(made.call(*args), expected(subject))


# --- two devices ---------------------------------------------------------------------------------


def mesh(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((2,), ("d",), axis_types=(kind,))


def laid_out(subject: Subject, kind: AxisType, whole: int | None = None) -> list[jax.Array]:
    """Arguments along the batch on two devices, but for one that is on both."""
    devices = mesh(kind)
    return [
        jax.device_put(x, NamedSharding(devices, P() if k == whole else P("d")))
        for k, x in enumerate(arrays(subject, whole))
    ]


def on_a_mesh(subject, kind):
    for whole in (None, *subject.shared):
        spread = laid_out(subject, kind, whole)
        found = jax.jit(value_and_gradients(subject))(*spread)
        close(found, expected(subject, whole))
        for k, gradient in enumerate(found[1]):
            if k != whole:
                assert gradient.sharding.spec[0] == "d", (k, gradient.sharding)
        for x in jax.tree.leaves(jax.jit(subject.call)(*spread)):
            assert x.sharding.spec[0] == "d", x.sharding


def explicit_mesh(subject):
    on_a_mesh(subject, AxisType.Explicit)


def auto_mesh(subject):
    on_a_mesh(subject, AxisType.Auto)


def mapped(subject, kind):
    spread = laid_out(subject, kind)
    rows = lambda *args: subject.call(*(x[None] for x in args))  # noqa: E731
    found = jax.jit(jax.vmap(rows))(*spread)
    close(found, jax.jit(jax.vmap(rows))(*arrays(subject)))
    assert all(x.sharding.spec[0] == "d" for x in jax.tree.leaves(found))


def mapped_on_an_explicit_mesh(subject):
    if jax.__version_info__ < (0, 11) and subject.stacks_constants:
        return  # jnp.stack of a mapped array and a constant raises there
    mapped(subject, AxisType.Explicit)


def mapped_on_an_auto_mesh(subject):
    mapped(subject, AxisType.Auto)


def hessian_on_a_mesh(subject):
    gradients = jax.grad(loss_of(subject.call), every(subject))
    second = jax.jit(lambda *args: jax.jvp(gradients, args, args)[1])
    right = second(*arrays(subject))
    for kind in (AxisType.Explicit, AxisType.Auto):
        close(second(*laid_out(subject, kind)), right, 1e-3)


def shard_map(subject):
    for whole in (None, *subject.shared):
        spread = laid_out(subject, AxisType.Auto, whole)
        specs = tuple(P() if k == whole else P("d") for k in every(subject))
        divided = jax.shard_map(
            subject.call, mesh=mesh(AxisType.Auto), in_specs=specs, out_specs=P("d")
        )
        found = jax.jit(jax.value_and_grad(loss_of(divided), every(subject)))(*spread)
        close(found, expected(subject, whole))


ONE_DEVICE = {
    f.__name__: f
    for f in (
        *(
            mapped_gradients,
            jit,
            vmap,
            vmap_of_none_and_one,
            derivatives,
            linearize,
            remat,
            loops,
            disable_jit,
        ),
        *(ahead_of_time, strict, double, exported),
    )
}
TWO_DEVICES = {
    f.__name__: f
    for f in (
        *(explicit_mesh, auto_mesh, mapped_on_an_explicit_mesh, mapped_on_an_auto_mesh),
        *(hessian_on_a_mesh, shard_map),
    )
}
