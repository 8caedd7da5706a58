"""Hooks: callbacks for programs that use the training loop."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stn_jax.training.evaluation import Predictions
    from stn_jax.training.run import Run
    from stn_jax.training.workdir import Workdir


class Hooks:
    """Callbacks of the training loop, to be overridden by a subclass. These do nothing.

    With several processes, ``after_steps`` is called in each of them, the others only in the
    primary one. An exception from a hook ends the training.
    """

    def after_steps(self, step: int) -> None:
        """Called after each dispatch, once its metrics and checkpoint, if due, are written."""

    def after_checkpoint(self, step: int) -> None:
        """Called after the checkpoint of this step is written."""

    def write_metrics(self, line: dict[str, Any]) -> None:
        """Called with each line of ``metrics.jsonl``, after it is written."""

    def draw(self, run: "Run", params: Any, predictions: "Predictions", workdir: "Workdir") -> None:
        """Called before the result is written, if the configuration asks for figures.

        Args:
          run: the trained run, on one device.
          params: its parameters, with a leading axis of seeds.
          predictions: its predictions for the test set.
          workdir: its folder; figures belong in ``workdir.figures``.
        """
