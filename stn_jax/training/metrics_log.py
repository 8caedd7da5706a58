"""Training metrics: summed on the device, written to metrics.jsonl line by line."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.training import health, processes
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.hooks import Hooks
from stn_jax.training.run import Run
from stn_jax.training.step import Metrics
from stn_jax.training.workdir import Workdir


class TrainingError(RuntimeError):
    """Training cannot continue; says where it stopped and which checkpoint is the last."""


class MetricsLog:
    """Collects the steps' metrics, and writes their means as a line at each log point.

    Attributes:
      metrics: sums since the last line, on the device.
      steps: number of steps since the last line.
      note: summary of the last line, for the progress bar.
    """

    def __init__(
        self,
        run: Run,
        workdir: Workdir,
        step: int,
        seconds: float,
        pending: dict[str, Any] | None,
        hooks: Hooks,
    ):
        self._run, self._workdir, self._hooks = run, workdir, hooks
        self._warned: set[str] = set()
        self._chance = health.chance_error(np.asarray(run.test.labels))
        self._best = np.full(len(run.config.seeds), np.inf)  # least training error so far
        self.note = ""
        self.metrics, self.steps = run.empty_metrics(), 0
        self._begun = self._last = time.perf_counter()
        self._before = seconds
        if pending is not None:
            self._resume(**pending)
        self._board = None
        if run.config.tensorboard and processes.is_primary():
            from tensorboardX import SummaryWriter

            # Discards what an interrupted process wrote for later steps.
            folder = str(workdir.path / "tensorboard")
            suffix = f".from-step-{step}"
            self._board = SummaryWriter(folder, purge_step=step + 1, filename_suffix=suffix)

    def pending(self) -> dict[str, Any]:
        """The metrics since the last line, ready for JSON, which is lossless here."""
        now = time.perf_counter()
        sums = jax.device_get(self.metrics)._asdict()
        return {
            "steps": self.steps,
            "seconds": self._before + now - self._begun,
            "seconds_of_steps": now - self._last,
            "sums": {name: x if x is None else x.tolist() for name, x in sums.items()},
        }

    def _resume(
        self, steps: int, seconds: float, seconds_of_steps: float, sums: dict[str, Any]
    ) -> None:
        # Earlier versions stored fewer metrics.
        saved = self.metrics._replace(**sums)
        read = jax.tree.map(lambda x, y: jnp.asarray(y, x.dtype), self.metrics, saved)
        self.metrics = self._run.replicate(read)
        self.steps, self._before = steps, seconds
        self._last -= seconds_of_steps

    def check(self, checkpoints: Checkpoints | None) -> Metrics:
        """The sums, on the host. Raises TrainingError if a loss or gradient was not finite."""
        sums = jax.device_get(self.metrics)
        if (sums.bad_step >= 0).any():
            raise TrainingError(_non_finite_message(self._run, sums.bad_step, checkpoints))
        return sums

    def exclude(self, seconds: float) -> None:
        """Excludes the last ``seconds`` from the training's time and rate."""
        self._begun += seconds
        self._last += seconds

    def write(
        self, step: int, checkpoints: Checkpoints | None, evaluated: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the means since the last line, and the results of an evaluation.

        Raises:
          TrainingError: as :meth:`check`.
        """
        sums = self.check(checkpoints)
        run, config = self._run, self._run.config
        now = time.perf_counter()
        transform_metrics = {
            "localization_gradient_norm": (1, sums.localization_gradient_norm),
            "runaway_theta_percent": (100, sums.runaway),
            "theta_variation": (1, sums.theta_variation),
        }
        means = {
            "loss": sums.loss / self.steps,
            "train_error_percent": 100 * sums.errors / self.steps,
            "gradient_norm": sums.gradient_norm / self.steps,
            **{
                name: unit * x / self.steps
                for name, (unit, x) in transform_metrics.items()
                if x is not None
            },
        }
        self._warn_of_collapse(step, np.asarray(means["train_error_percent"]))
        if "theta_variation" in means:
            self._warn_of_transforms(step, means)
        line: dict[str, Any] = {"step": step, "epoch": round(step / run.steps_per_epoch, 4)}
        line |= {name: [round(float(x), 6) for x in value] for name, value in means.items()}
        line |= evaluated or {}
        line["learning_rate"] = float(run.schedule(step - 1))
        images = self.steps * config.batch_size * len(config.seeds)
        line["images_per_second"] = round(images / (now - self._last), 1)
        line["seconds"] = round(self._before + now - self._begun, 3)

        def write() -> int:
            self._workdir.append_metrics(line)
            if self._board is not None:
                for name, value in means.items():
                    self._board.add_scalar(f"train/{name}", float(np.mean(value)), step)
                for name, value in (evaluated or {}).items():
                    self._board.add_scalar(f"eval/{name}", float(np.mean(value)), step)
            self._hooks.write_metrics(line)
            return 0

        processes.run_on_primary(write)
        self.note = (
            f"epoch {step / run.steps_per_epoch:.1f}, loss {np.mean(means['loss']):.3f}, "
            f"train error {np.mean(means['train_error_percent']):.2f} %"
            + "".join(f", {name} {np.mean(x):.2f}" for name, x in (evaluated or {}).items())
        )
        self.metrics, self.steps = run.empty_metrics(), 0
        self._last = now

    def _warn_of_collapse(self, step: int, errors: np.ndarray) -> None:
        """Compares with the lowest errors since this process started."""
        self._best = np.minimum(self._best, errors)
        if health.collapsed(errors, self._best, self._chance).any():
            worst = int(np.argmax(errors - self._best))
            advice = health.collapse_warning(errors[worst], self._best[worst], step)
            self._warn_once("collapse", advice)

    def _warn_of_transforms(self, step: int, means: dict[str, Any]) -> None:
        """Warns of transforms that have run away or are constant, once each."""
        config, total = self._run.config, self._run.total_steps
        worst = float(means["runaway_theta_percent"].max())
        if worst >= health.RUNAWAY_PERCENT:
            self._warn_once("runaway", health.runaway_warning(worst, step))
        late = step >= max(health.GRACE_STEPS, total / 10)
        if (
            late
            and config.localization_rate
            and means["theta_variation"].min() < health.MIN_VARIATION
        ):
            self._warn_once("blind", health.constant_theta_warning(step))

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned and processes.is_primary():
            self._warned.add(about)
            print(message, file=sys.stderr, flush=True)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()


def _non_finite_message(run: Run, bad: np.ndarray, checkpoints: Checkpoints | None) -> str:
    seeds = [seed for seed, at in zip(run.config.seeds, bad, strict=True) if at >= 0]
    step = int(bad[bad >= 0].min())
    good = None if checkpoints is None else checkpoints.latest_step()
    last = (
        "there is no checkpoint from before"
        if checkpoints is None or good is None
        else f"the last good checkpoint is step {good}, in {checkpoints.folder}"
    )
    return (
        f"the loss or its gradient is not finite at step {step} (seed "
        f"{', '.join(map(str, seeds))}); {last}. Lower learning_rate or localization_rate, or set "
        "clip_norm, and train in a new workdir"
    )
