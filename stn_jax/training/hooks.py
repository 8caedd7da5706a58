"""What a program may add to a training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stn_jax.training.evaluation import Predictions
    from stn_jax.training.run import Run
    from stn_jax.training.workdir import Workdir


class Hooks:
    """Called while a training goes on; a subclass overrides what it needs. These do nothing.

    Where several processes train together, ``after_steps`` is called in every one, the others in
    the primary process alone. What a hook raises ends the training as it would anywhere else.
    """

    def after_steps(self, step: int) -> None:
        """Called once the steps up to this one are under way, after what was due was saved."""

    def after_checkpoint(self, step: int) -> None:
        """Called once the state of this step is on disk."""

    def write_metrics(self, line: dict[str, Any]) -> None:
        """Called with each line of ``metrics.jsonl``, after it was written."""

    def draw(self, run: "Run", params: Any, predictions: "Predictions", workdir: "Workdir") -> None:
        """Called at the end, where the configuration asks for figures, before the result is there.

        Args:
          run: what was trained, on one device.
          params: its parameters, with the leading axis of seeds.
          predictions: what it predicts for the test set.
          workdir: in whose folder ``figures`` they belong.
        """
