"""How a run is distributed over devices: a mesh with the axes "seeds" and "batch".

Along "batch" it is data parallel: each device holds its part of the training set and of each batch,
and all parameters. Along "seeds" each device holds its part of the networks. The program is the
same as on one device; XLA partitions it by the shardings given here.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stn_jax.training.config import Config, ConfigError, mesh_axes

AXES = ("seeds", "batch")


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh of devices and the shardings on it.

    Attributes:
      mesh: the mesh, with the axes "seeds" and "batch".
    """

    mesh: Mesh

    @classmethod
    def choose(cls, config: Config, mesh: str | None = None) -> "Placement":
        """The mesh of a configuration, on the available devices.

        Args:
          config: its fields mesh, seeds, batch_size and microbatch are used.
          mesh: overrides the configuration's mesh.

        Raises:
          ConfigError: there are too few devices, or the work cannot be divided evenly.
        """
        asked, available = mesh or config.mesh, jax.devices()
        shape = mesh_shape(config, mesh)
        total = int(np.prod(shape))
        if total < len(available):
            if jax.process_count() > 1:
                raise ConfigError(
                    f"mesh is {asked!r}, which uses {total} of {len(available)} devices; several "
                    "processes must use all of them: make batch_size or the number of seeds a "
                    "multiple of that number"
                )
            print(f"on {total} of {len(available)} devices (mesh is {asked!r})", flush=True)
        devices = np.asarray(available[:total]).reshape(shape)
        return cls(Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2))

    @property
    def single(self) -> bool:
        """Whether there is only one device, so that nothing needs a sharding."""
        return self.mesh.size == 1

    @property
    def replicated(self) -> NamedSharding:
        """A full copy on every device."""
        return NamedSharding(self.mesh, P())

    @property
    def by_seed(self) -> NamedSharding:
        """Sharded along a leading axis of seeds."""
        return NamedSharding(self.mesh, P("seeds"))

    @property
    def by_example(self) -> NamedSharding:
        """Sharded along a leading axis of a training batch's examples."""
        return NamedSharding(self.mesh, P("batch"))

    @property
    def by_device(self) -> NamedSharding:
        """Sharded along the leading axis over all devices, as in evaluation."""
        return NamedSharding(self.mesh, P(AXES))

    def state(self) -> dict[str, NamedSharding]:
        """The shardings of a training state, by its entries."""
        return {"step": self.replicated, "params": self.by_seed, "optimizer": self.by_seed}

    def put(self, tree: Any, sharding: Any) -> Any:
        """Distributes arrays that every process holds; each device loads its part.

        Args:
          tree: tree of arrays.
          sharding: the sharding of all of them, or a prefix tree of shardings.
        """
        if self.single:
            return tree

        def put_leaf(sharding: NamedSharding, x: Any) -> jax.Array:
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        def put_part(sharding: NamedSharding, part: Any) -> Any:
            return jax.tree.map(functools.partial(put_leaf, sharding), part)

        return jax.tree.map(put_part, sharding, tree)

    def put_examples(self, tree: Any) -> Any:
        """Distributes a training set over the devices; replicated if it cannot be split evenly."""
        if self.single:
            return tree
        even = len(jax.tree.leaves(tree)[0]) % self.mesh.shape["batch"] == 0
        return self.put(tree, self.by_example if even else self.replicated)

    def fetch(self, tree: Any) -> Any:
        """Gathers arrays on the host, in every process."""
        if self.single:
            return tree
        return jax.device_get(self._gather(tree))

    @functools.cached_property
    def _gather(self) -> Any:
        return jax.jit(lambda tree: tree, out_shardings=self.replicated)

    def constrain(self, x: jax.Array) -> jax.Array:
        """Constrains an array in a jitted program to be sharded as :attr:`by_example`."""
        return x if self.single else jax.lax.with_sharding_constraint(x, self.by_example)


def mesh_shape(config: Config, mesh: str | None = None) -> tuple[int, int]:
    """The numbers of devices along "seeds" and along "batch".

    Args, Raises: as :meth:`Placement.choose`.
    """
    asked, available = mesh or config.mesh, jax.device_count()
    shared = "microbatch" if config.microbatch else "batch_size"
    sizes = {"seeds": len(config.seeds), "batch": getattr(config, shared)}
    counts = mesh_axes(asked)
    given = int(np.prod([count or 1 for count in counts.values()]))
    for axis, count in counts.items():
        if count is None:
            most = available // given
            fits = [n for n in range(1, most + 1) if sizes[axis] % n == 0]
            counts[axis] = max(fits, default=1)
        elif sizes[axis] % count:
            raise ConfigError(
                f"mesh is {asked!r}, but {count} devices cannot share {sizes[axis]} "
                f"({shared if axis == 'batch' else 'seeds'}) evenly"
            )
    seeds, batch = (counts.get(axis) or 1 for axis in AXES)
    if seeds * batch > available:
        raise ConfigError(f"mesh is {asked!r}, but there are {available} devices")
    return seeds, batch
