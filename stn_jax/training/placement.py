"""How a run is laid over devices: a mesh with the axes "seeds" and "batch".

Data parallel over "batch": every device holds its share of the training set, of each batch, and
all parameters. Over "seeds": its share of the networks. The program is the same as on one device;
XLA divides it by the shardings that are stated here.
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
    """A mesh of devices, and what goes where.

    Attributes:
      mesh: with the axes "seeds" and "batch".
    """

    mesh: Mesh

    @classmethod
    def choose(cls, config: Config, mesh: str | None = None) -> "Placement":
        """The mesh that a configuration asks for, on the devices that there are.

        Args:
          config: with fields mesh, seeds, batch_size and microbatch.
          mesh: in place of the configuration's.

        Raises:
          ConfigError: there are not so many devices, or they cannot share the work evenly.
        """
        asked, available = mesh or config.mesh, jax.devices()
        shape = mesh_shape(config, mesh)
        total = int(np.prod(shape))
        if total < len(available):
            if jax.process_count() > 1:
                raise ConfigError(
                    f"mesh is {asked!r}, which takes {total} of {len(available)} devices; with "
                    "several processes all are needed: let batch_size or the number of seeds be "
                    "a multiple"
                )
            print(f"on {total} of {len(available)} devices (mesh is {asked!r})", flush=True)
        devices = np.asarray(available[:total]).reshape(shape)
        return cls(Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2))

    @property
    def single(self) -> bool:
        """Whether all is on one device, so that nothing needs to be said about it."""
        return self.mesh.size == 1

    @property
    def whole(self) -> NamedSharding:
        """Everything on every device."""
        return NamedSharding(self.mesh, P())

    @property
    def by_seed(self) -> NamedSharding:
        """The leading axis is that of seeds."""
        return NamedSharding(self.mesh, P("seeds"))

    @property
    def by_example(self) -> NamedSharding:
        """The leading axis is that of a training batch."""
        return NamedSharding(self.mesh, P("batch"))

    @property
    def by_device(self) -> NamedSharding:
        """The leading axis is shared by all devices, as in evaluation."""
        return NamedSharding(self.mesh, P(AXES))

    def state(self) -> dict[str, NamedSharding]:
        """Of a state, by its parts."""
        return {"step": self.whole, "params": self.by_seed, "optimizer": self.by_seed}

    def put(self, tree: Any, sharding: Any) -> Any:
        """Lays arrays that every process has over the devices; each loads its part.

        Args:
          tree: of arrays.
          sharding: of all of them, or a tree of these that leads the other one.
        """
        if self.single:
            return tree

        def put_leaf(sharding: NamedSharding, x: Any) -> jax.Array:
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        def put_part(sharding: NamedSharding, part: Any) -> Any:
            return jax.tree.map(functools.partial(put_leaf, sharding), part)

        return jax.tree.map(put_part, sharding, tree)

    def put_examples(self, tree: Any) -> Any:
        """Lays a training set over the devices.

        What cannot be shared evenly is wholly on each.
        """
        if self.single:
            return tree
        even = len(jax.tree.leaves(tree)[0]) % self.mesh.shape["batch"] == 0
        return self.put(tree, self.by_example if even else self.whole)

    def fetch(self, tree: Any) -> Any:
        """Arrays as they are for one device alone, in every process: on the host."""
        if self.single:
            return tree
        return jax.device_get(self._gather(tree))

    @functools.cached_property
    def _gather(self) -> Any:
        return jax.jit(lambda tree: tree, out_shardings=self.whole)

    def constrain(self, x: jax.Array) -> jax.Array:
        """States, in a program, that the leading axis is that of a training batch."""
        return x if self.single else jax.lax.with_sharding_constraint(x, self.by_example)


def mesh_shape(config: Config, mesh: str | None = None) -> tuple[int, int]:
    """How many devices share the seeds, and how many the batch.

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
