"""Checkpoints, through Orbax."""

import logging
from pathlib import Path
from typing import Any

import jax

from stn_jax.training.step import State


class Checkpoints:
    """The checkpoints of a run, by step; the newest two are kept."""

    def __init__(self, folder: Path, *, keep: int = 2):
        # Orbax takes a second to import; those who train without checkpoints need not have it.
        import orbax.checkpoint as ocp
        from absl import logging as absl_logging

        absl_logging.set_verbosity(absl_logging.ERROR)
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._args = ocp.args
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
        )

    def save(self, state: State) -> None:
        """Writes a state under its step."""
        self._manager.save(int(state["step"]), args=self._args.StandardSave(state))

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None where there is none."""
        return self._manager.latest_step()

    def restore(self, like: Any) -> State | None:
        """Reads the newest checkpoint.

        Args:
          like: a state, or its shapes and types, of the same network.

        Returns:
          The state, or None where there is no checkpoint.
        """
        step = self.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        state = self._manager.restore(step, args=self._args.StandardRestore(abstract))
        return jax.device_put(state)

    def close(self) -> None:
        self._manager.close()
