"""Evaluation during training, the best state, and profiler traces."""

from typing import Any

import jax
import numpy as np

from stn_jax.training import processes
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.config_checks import profiled_steps
from stn_jax.training.evaluation import predict, predict_step
from stn_jax.training.run import Run
from stn_jax.training.step import State
from stn_jax.training.workdir import Workdir

# The key of an evaluation's error in metrics.jsonl.
ERROR = "eval_error_percent"


class Monitor:
    """Evaluates every ``eval_every`` epochs, and saves the best state if ``keep_best`` is set."""

    def __init__(self, run: Run, workdir: Workdir):
        self._run = run
        self._every = run.config.eval_every * run.steps_per_epoch
        self._step = predict_step(run)
        self._best = Checkpoints(workdir.best, keep=1) if run.config.keep_best else None
        self._lowest = _lowest_logged_error(workdir) if self._every else np.inf

    def due(self, step: int) -> bool:
        """Whether an evaluation is due after this step."""
        return bool(self._every) and step % self._every == 0

    def evaluate(self, state: State) -> dict[str, list[float]]:
        """Evaluates in one pass over the evaluation set; a collective over all processes.

        A new best state is on disk before its error is logged.

        Returns:
          Entries for a line of metrics: the error in percent, by seed.
        """
        found = predict(self._run, state["params"], passes=1, quiet=True, step=self._step)
        errors = [round(100 * float(wrong), 4) for wrong in found.wrong.mean((1, 2))]
        if float(np.mean(errors)) < self._lowest:
            self._lowest = float(np.mean(errors))
            if self._best is not None:
                self._save(self._best, self._run.fetch(state))
        return {ERROR: errors}

    def _save(self, best: Checkpoints, state: State) -> None:
        def save() -> int:
            for step in best.steps():  # later steps, from before an interruption
                if step > int(state["step"]):
                    best.delete(step)
            best.save(state)
            return 0

        processes.run_on_primary(save)


def _lowest_logged_error(workdir: Workdir) -> float:
    """From the log, so that a resumed training has the same best state; infinite without any."""
    errors = processes.broadcast_from_primary(
        lambda: [np.mean(line[ERROR]) for line in workdir.metrics() if ERROR in line]
    )
    return float(min(errors, default=np.inf))


class Trace:
    """Traces the steps given by ``config.profile`` to the workdir's folder ``profile``."""

    def __init__(self, run: Run, workdir: Workdir):
        self.steps: tuple[int, ...] = profiled_steps(run.config.profile) or ()
        self._folder, self._running = workdir.path / "profile", False

    def before(self, step: int) -> None:
        """Call this before the dispatch that starts at this step."""
        if step in self.steps[:1] and processes.is_primary():
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """Call this after the dispatch that ends at this step."""
        if self._running and step >= self.steps[-1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Stops a running trace."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            print(f"trace written to {self._folder}", flush=True)
