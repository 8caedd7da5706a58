"""What is walked through, and the arrays that it is tried with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

BATCH = 4


class Subject(NamedTuple):
    """A function and what it is tried with.

    Attributes:
      call: function of arrays to an array or a tree of arrays.
      args: each leads with the batch, or (see shared) serves all of it.
      covers: the public names that it calls.
      shared: for each argument that may also come without the batch axis: where it stands.
      symbolic: the shapes of the arguments with letters for what an export leaves open.
      ways: those that it is tried in; () for all. What a network does beyond its layers' own doings
        shows in few, and each takes seconds to compile.
      stacks_constants: whether it builds matrices of entries some of which are constants.
    """

    call: Callable[..., Any]
    args: tuple[np.ndarray, ...]
    covers: tuple[str, ...]
    shared: tuple[int, ...] = ()
    symbolic: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    stacks_constants: bool = False

    def is_tried(self, way: str) -> bool:
        return not self.ways or way in self.ways or way == "mapped_gradients"


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


IMAGE, VOLUME = random(BATCH, 6, 5, 3, seed=1), random(BATCH, 3, 4, 5, 2, seed=2)
# Away from the identity, where every position is a whole pixel up to rounding and slopes jump.
THETA = np.float32(np.eye(2, 3) * 0.83 + random(BATCH, 2, 3, seed=3) / 4)
THETA_3D = np.float32(np.eye(3, 4) * 0.83 + random(BATCH, 3, 4, seed=4) / 4)
GRID = 1.3 * random(BATCH, 4, 3, 2, seed=5)
# Away from whole pixels by 0.1 at least.
POSITIONS = np.float32(random(BATCH, 4, 3, 2, seed=9) * 0.4 + np.arange(-1, 2)[:, None] + 1.5)
FLOWS = np.float32(random(BATCH, 6, 5, 2, seed=10) * 0.4 + 0.5)
PIXELS = np.float32(np.eye(2, 3) + random(BATCH, 2, 3, seed=11) / 4)
HOMOGRAPHIES = np.float32(np.eye(3) + random(BATCH, 3, 3, seed=12) * [[0.2], [0.2], [0.01]])
BOXES = np.float32([0.7, 1.2, 3.9, 5.1]) + random(BATCH, 2, 4, seed=13) / 2
COORDINATES = np.float32(random(BATCH, 2, 7, seed=14) * 0.4 + np.arange(7) % 4 + 0.5)
TURN = np.float32([0.02, -0.3, 0.1, 0.3, 0.03, -0.1])
FEW = ("jit", "disable_jit", "strict", "exported", "auto_mesh")
MORE = (*FEW, "vmap", "derivatives", "remat", "explicit_mesh", "shard_map")
DIGITS = random(BATCH, 28, 28, 1, seed=6)
