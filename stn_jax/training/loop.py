"""The training loop: from a configuration and a folder to a trained, evaluated network."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.config import Config
from stn_jax.training.evaluation import evaluate
from stn_jax.training.optimizer import make_schedule
from stn_jax.training.progress import Progress
from stn_jax.training.run import Run
from stn_jax.training.step import State, Sums, make_train_steps
from stn_jax.training.workdir import Workdir


class TrainingError(RuntimeError):
    """Training cannot go on; says where it stopped and what there is to go back to."""


def train(config: Config, workdir: str) -> dict[str, Any]:
    """Trains, evaluates, and writes all of it to a folder.

    Called again with the same arguments it goes on from the last checkpoint, and once all is done
    it returns the result at once.

    Args:
      config: what to train.
      workdir: the run's folder; made where it does not exist.

    Returns:
      What ``result.json`` holds.

    Raises:
      ConfigError: config and data do not fit together, or the folder holds another run.
      DataError: the data cannot be had.
      TrainingError: the loss became infinite or NaN.
    """
    run = Run.open(config)
    folder = Workdir(workdir)
    folder.claim(config)
    result = folder.read_json("result.json")
    if result is not None and result["step"] == run.total_steps:
        print(f"{workdir} is trained and evaluated already", flush=True)
        return result
    state = fit(run, folder)
    return evaluate(run, state["params"], int(state["step"]), folder)


def fit(run: Run, workdir: Workdir) -> State:
    """Trains from the last checkpoint, or from the start, to the end. Returns the last state."""
    config = run.config
    state = run.init_state()
    checkpoints = None
    if config.checkpoint_every:
        checkpoints = Checkpoints(workdir.checkpoints)
        restored = checkpoints.restore(state)
        if restored is not None:
            state = restored
            print(f"going on from step {int(state['step'])} of {run.total_steps}", flush=True)
    step = int(state["step"])
    before = workdir.rewind_metrics(step)
    log = _Log(run, workdir, before)
    train_steps = make_train_steps(
        run.model,
        run.optimizer,
        run.task,
        seeds=config.seeds,
        batch_size=config.batch_size,
        label_smoothing=config.label_smoothing,
    )
    images = config.batch_size * len(config.seeds)
    with (
        Progress("train", run.total_steps * images, "images", start=step * images) as progress,
        log,
    ):
        while step < run.total_steps:
            end = _next_stop(run, step)
            state, sums = train_steps(state, run.data, jnp.int32(end - step))
            log.add(sums, end - step)
            save = checkpoints if _checkpoint_due(run, end) else None
            if end % config.log_every == 0 or save or end == run.total_steps:
                log.write(end, checkpoints)
            if save:
                save.save(state)
            progress.advance((end - step) * images, log.note)
            step = end
    if checkpoints is not None:
        checkpoints.close()
    return state


def _next_stop(run: Run, step: int) -> int:
    """Where the next dispatch ends: at the latest where something is due."""
    config = run.config
    return min(
        step + config.steps_per_dispatch,
        (step // config.log_every + 1) * config.log_every,
        (step // run.steps_per_epoch + 1) * run.steps_per_epoch,
    )


def _checkpoint_due(run: Run, step: int) -> bool:
    every = run.config.checkpoint_every * run.steps_per_epoch
    return step == run.total_steps or bool(every and step % every == 0)


class _Log:
    """Gathers what the steps measured and writes it, a line at each log point."""

    def __init__(self, run: Run, workdir: Workdir, seconds: float):
        self.note = ""
        self._run, self._workdir = run, workdir
        self._schedule = make_schedule(run.config, run.total_steps)
        self._sums: Sums | None = None
        self._steps = 0
        self._begun = self._last = time.perf_counter()
        self._before = seconds
        self._board = None
        if run.config.tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir.path / "tensorboard"))

    def add(self, sums: Sums, steps: int) -> None:
        """Adds a dispatch's sums; they stay on the device."""
        if self._sums is not None:
            bad = jnp.where(self._sums.bad_step >= 0, self._sums.bad_step, sums.bad_step)
            sums = jax.tree.map(jnp.add, self._sums, sums)._replace(bad_step=bad)
        self._sums = sums
        self._steps += steps

    def write(self, step: int, checkpoints: Checkpoints | None) -> None:
        """Writes a line of means since the last. TrainingError where a loss was not finite."""
        sums = jax.device_get(self._sums)
        run, config = self._run, self._run.config
        if (sums.bad_step >= 0).any():
            raise TrainingError(_not_finite(run, sums.bad_step, checkpoints))
        now = time.perf_counter()
        means = {
            "loss": sums.loss / self._steps,
            "train_error_percent": 100 * sums.errors / self._steps,
            "gradient_norm": sums.gradient_norm / self._steps,
        }
        line: dict[str, Any] = {"step": step, "epoch": round(step / run.steps_per_epoch, 4)}
        line |= {name: [round(float(x), 6) for x in value] for name, value in means.items()}
        line["learning_rate"] = float(self._schedule(step - 1))
        images = self._steps * config.batch_size * len(config.seeds)
        line["images_per_second"] = round(images / (now - self._last), 1)
        line["seconds"] = round(self._before + now - self._begun, 3)
        self._workdir.append_metrics(line)
        if self._board is not None:
            for name, value in means.items():
                self._board.add_scalar(f"train/{name}", float(np.mean(value)), step)
        self.note = (
            f"epoch {step / run.steps_per_epoch:.1f}, loss {np.mean(means['loss']):.3f}, "
            f"train error {np.mean(means['train_error_percent']):.2f} %"
        )
        self._sums, self._steps, self._last = None, 0, now

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()


def _not_finite(run: Run, bad: np.ndarray, checkpoints: Checkpoints | None) -> str:
    seeds = [seed for seed, at in zip(run.config.seeds, bad, strict=True) if at >= 0]
    step = int(bad[bad >= 0].min())
    good = None if checkpoints is None else checkpoints.latest_step()
    last = (
        "there is no checkpoint from before"
        if checkpoints is None or good is None
        else f"the last good checkpoint is step {good}, in {checkpoints.folder}"
    )
    return (
        f"the loss is not finite at step {step} (seed {', '.join(map(str, seeds))}); {last}. "
        "Lower learning_rate or localization_rate, or set clip_norm, and train in a new workdir"
    )
