"""Convolution, pooling and networks on two devices, for tests/models/test_layers_everywhere.py.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python tests/models/layers_on_devices.py

Prints a line of JSON: for each case "ok", or the traceback of what went wrong.
"""

import json
import sys
import traceback
from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from stn_jax.models import ConvBlock, Head, Network, layers

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(4, 9, 8, 5)).astype(np.float32)
KERNEL = (rng.normal(size=(3, 4, 5, 6)) / 8).astype(np.float32)
CASES: dict[str, Callable[[], None]] = {}


def case(fn: Callable[[], None]) -> Callable[[], None]:
    CASES[fn.__name__] = fn
    return fn


def conv(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return layers.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def loss(x, kernel):
    return (layers.max_pool(jax.nn.relu(conv(x, kernel))) ** 2).sum()


value_and_grads = jax.value_and_grad(loss, (0, 1))


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


def mesh(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((2,), ("d",), axis_types=(kind,))


def laid_out(mesh, *arrays):
    """Arrays on a mesh, each with its PartitionSpec."""
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in arrays]


def is_by_example(x: jax.Array) -> bool:
    return len(x.addressable_shards) == 2 and x.addressable_shards[0].data.shape[0] == len(x) // 2


@case
def explicit_mesh():
    """jax.make_mesh's default: the batch is sharded, and all that has one stays so."""
    devices = jax.make_mesh((2,), ("d",))
    with jax.set_mesh(devices):
        args = laid_out(devices, (IMAGES, P("d")), (KERNEL, P()))
        assert jax.typeof(args[0]).sharding.spec[0] == "d"
        program = jax.jit(value_and_grads)
        value, (to_x, to_kernel) = program(*args)
        assert_close((value, (to_x, to_kernel)), value_and_grads(IMAGES, KERNEL))
        assert jax.typeof(to_x).sharding.spec[0] == "d"
        assert to_kernel.sharding.is_fully_replicated
        assert jax.typeof(jax.jit(conv)(*args)).sharding.spec == P("d", None, None, None)
        assert "all-gather" not in program.lower(*args).compile().as_text()
        assert_close(value_and_grads(*args)[1], (to_x, to_kernel))
        directions = jax.jit(lambda x, k: jax.jvp(jax.grad(loss, 1), (x, k), (x, k))[1])
        assert_close(directions(*args), directions(IMAGES, KERNEL))


@case
def explicit_mesh_mapped():
    """The mapped axis is the sharded one, of images or of kernels."""
    devices = jax.make_mesh((2,), ("d",))
    with jax.set_mesh(devices):
        several = np.stack([KERNEL, 2 * KERNEL])
        x, kernels = laid_out(devices, (IMAGES[:, None], P("d")), (several, P("d")))
        found = jax.jit(jax.vmap(conv, (0, None)))(x, KERNEL)
        assert jax.typeof(found).sharding.spec[0] == "d"
        assert_close(found[:, 0], conv(IMAGES, KERNEL))
        gradients = jax.vmap(jax.grad(loss, (0, 1)), (None, 0))
        found = jax.jit(gradients)(IMAGES, kernels)
        assert [jax.typeof(g).sharding.spec[0] for g in found] == ["d", "d"]
        assert_close(found, gradients(IMAGES, several))


@case
def auto_mesh():
    devices = mesh(AxisType.Auto)
    program = jax.jit(value_and_grads)
    args = laid_out(devices, (IMAGES, P("d")), (KERNEL, P()))
    value, (to_x, to_kernel) = program(*args)
    assert_close((value, (to_x, to_kernel)), value_and_grads(IMAGES, KERNEL))
    assert is_by_example(to_x)
    assert to_kernel.sharding.is_fully_replicated
    assert "all-gather" not in program.lower(*args).compile().as_text()


def sharded_total(specs: tuple[P, P]) -> Callable:
    """The loss, added up over the devices; of kernels [n, ...] the device's own."""

    def total(x, kernel):
        value = loss(x, kernel if kernel.ndim == 4 else kernel[0])
        return lax.psum(value, "d")

    return jax.shard_map(total, in_specs=specs, out_specs=P())


@case
def shard_map():
    """One kernel for shares of the images; one batch for kernels of the devices' own."""
    for kind in (AxisType.Auto, AxisType.Explicit):
        devices = mesh(kind)
        several = np.stack([KERNEL, 2 * KERNEL])
        with jax.set_mesh(devices):
            specs = (P("d"), P())
            args = laid_out(devices, *zip((IMAGES, KERNEL), specs, strict=True))
            found = jax.jit(jax.value_and_grad(sharded_total(specs), (0, 1)))(*args)
            assert_close(found, value_and_grads(IMAGES, KERNEL))

            specs = (P(), P("d"))
            args = laid_out(devices, *zip((IMAGES, several), specs, strict=True))
            found = jax.jit(jax.grad(sharded_total(specs), (0, 1)))(*args)

        def both(x, kernels):
            return loss(x, kernels[0]) + loss(x, kernels[1])

        assert_close(found, jax.grad(both, (0, 1))(IMAGES, several))


@case
def shard_map_of_gradients():
    """The gradient is taken within: that of the kernel is added up over the devices."""
    devices = mesh(AxisType.Explicit)
    with jax.set_mesh(devices):
        args = laid_out(devices, (IMAGES, P("d")), (KERNEL, P()))
        gradients = jax.shard_map(
            jax.grad(loss, (0, 1)), in_specs=(P("d"), P()), out_specs=(P("d"), P())
        )
        assert_close(jax.jit(gradients)(*args), value_and_grads(IMAGES, KERNEL)[1])


@case
def networks():
    """With dropout, in training: the same as on one device, sharded as the images are."""
    network = Network(
        (ConvBlock(4, 5, pool=True, dropout=0.5), ConvBlock(6, 3, padding="SAME", dropout=0.5)),
        Head(10, positions=5, hidden=(8,), dropout=0.5),
    )
    images = rng.normal(size=(4, 12, 12, 3)).astype(np.float32)
    params = jax.jit(network.init)(jax.random.key(0), images)["params"]

    def total(params, images):
        rngs = {"dropout": jax.random.key(1)}
        logits = network.apply({"params": params}, images, True, rngs=rngs)
        return (logits**2).sum(), logits

    program = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    expected = program(params, images)
    for kind in (AxisType.Auto, AxisType.Explicit):
        devices = mesh(kind)
        with jax.set_mesh(devices):
            args = laid_out(devices, (params, P()), (images, P("d")))
            found = program(*args)
            assert_close(found, expected)
            assert is_by_example(found[0][1])
            assert is_by_example(found[1][1])
            assert all(g.sharding.is_fully_replicated for g in jax.tree.leaves(found[1][0]))


def main() -> None:
    assert jax.device_count() == 2
    results = {}
    for name in sys.argv[1:]:
        try:
            CASES[name]()
            results[name] = "ok"
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
