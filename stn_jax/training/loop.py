"""The training loop: from a configuration and a folder to a trained, evaluated network."""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.progress import Progress
from stn_jax.training import health, processes
from stn_jax.training.checkpoints import Checkpoints, check_name
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.evaluation import evaluate
from stn_jax.training.optimizer import make_schedule
from stn_jax.training.run import Run, environment
from stn_jax.training.signals import StopSignals
from stn_jax.training.step import State, Sums
from stn_jax.training.workdir import Workdir, config_of


class TrainingError(RuntimeError):
    """Training cannot go on; says where it stopped and what there is to go back to."""


def train(config: Config, workdir: str | Path | Workdir) -> dict[str, Any]:
    """Trains, evaluates, and writes all of it to a folder.

    Called again with the same arguments it goes on from the last checkpoint, and once all is done
    it returns the result at once. However often it was cut off, the result is that of a training
    that never was. Called for a trained network with other settings of the evaluation
    (``Config.EVALUATION``) it evaluates again; what else may change between a run and its
    continuation then stays as it was trained.

    SIGTERM and Ctrl-C stop the training after the steps in flight, once its state is saved.

    Args:
      config: what to train.
      workdir: the run's folder; made where it does not exist.

    Returns:
      What ``result.json`` holds.

    Raises:
      ConfigError: config and data do not fit together, or the folder holds another run, or a
        result of another evaluation and no checkpoint to evaluate again.
      WorkdirError: the folder cannot be written, or another process trains in it.
      DataError: the data cannot be had.
      TrainingError: the loss became infinite or NaN.
      ProcessError: another process of the run could not go on.
      KeyboardInterrupt: Ctrl-C. SystemExit, with status 143: SIGTERM.
    """
    folder = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
    with StopSignals() as signals, contextlib.ExitStack() as stack:
        environment()  # the commit, before a long training

        def open_run() -> Run:
            if config.checkpoint_every:
                check_name(folder.checkpoints)  # before anything is written
            return Run.open(config)

        run = processes.everywhere(open_run)

        def claim() -> dict[str, Any] | None:
            stack.enter_context(folder.lock())
            folder.check(config)
            result = folder.result()
            if result is None or result["step"] < run.total_steps:
                folder.claim(config)
                return None
            return result

        trained = processes.from_first(claim)
        if trained is not None:
            return _evaluated(run, folder, trained)
        state = fit(run, folder, signals)
        return evaluate(run, state["params"], int(state["step"]), folder)


def _evaluated(run: Run, workdir: Workdir, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a run that is trained and evaluated, evaluated again where settings differ."""
    before = config_of(result)
    config = before.evaluated_as(run.config)
    changed = before.differences(config, Config.FOLDERS)

    def claim(step: int) -> int:
        if changed and step != result["step"]:
            raise ConfigError(
                f"{workdir.path} holds a result of another evaluation ({'; '.join(changed)}), and "
                f"no checkpoint of step {result['step']} to evaluate again: ask for that "
                "evaluation, or train in another folder, named with --workdir"
            )
        if late := config.differences(run.config, ()):
            print(f"trained already, so that this changes nothing: {'; '.join(late)}", flush=True)
        workdir.claim(config)
        return 0

    if not changed:
        processes.by_first(lambda: claim(result["step"]))
        print(f"{workdir.path} is trained and evaluated already", flush=True)
        return result
    with Checkpoints(workdir.checkpoints) as checkpoints:
        state, _ = _begin(run, workdir, checkpoints)
    step = int(state["step"])
    processes.by_first(lambda: claim(step))
    print(f"evaluating {workdir.path} again: {'; '.join(changed)}", flush=True)
    run = dataclasses.replace(run, config=config)
    return evaluate(run, state["params"], step, workdir, trained=result)


def fit(run: Run, workdir: Workdir, signals: StopSignals | None = None) -> State:
    """Trains from the last checkpoint, or from the start, to the end.

    Args:
      run: what to train.
      workdir: its folder.
      signals: what may stop it.

    Returns:
      The last state.
    """
    # Where checkpoints are there, training goes on from them, whether it writes others or not.
    there = processes.by_first(lambda: workdir.checkpoints.exists())
    if not run.config.checkpoint_every and not there:
        return _fit(run, workdir, signals or StopSignals(), None)
    with processes.everywhere(lambda: Checkpoints(workdir.checkpoints)) as checkpoints:
        return _fit(run, workdir, signals or StopSignals(), checkpoints)


def _fit(
    run: Run, workdir: Workdir, signals: StopSignals, checkpoints: Checkpoints | None
) -> State:
    config = run.config
    state, pending = _begin(run, workdir, checkpoints)
    step = int(state["step"])

    def begin_log() -> _Log:
        seconds = workdir.rewind_metrics(step) if processes.is_first() else 0.0
        return _Log(run, workdir, step, seconds, pending)

    log = processes.everywhere(begin_log)
    train_steps = run.train_steps()
    images = config.batch_size * len(config.seeds)
    total = run.total_steps * images
    quiet = not processes.is_first()
    alone = jax.process_count() == 1
    with (
        signals.held_back(),
        Progress("train", total, "images", start=step * images, quiet=quiet) as progress,
        log,
    ):
        while step < run.total_steps:
            end = _next_stop(run, step)
            state, log.sums = train_steps(state, log.sums, run.data, np.int32(end - step))
            log.steps += end - step
            save = checkpoints if _checkpoint_due(run, end) else None
            logged = end % config.log_every == 0 or bool(save) or end == run.total_steps
            if logged:
                log.write(end, checkpoints)
            if save:
                _save(run, workdir, save, state)
            progress.advance((end - step) * images, log.note)
            step = end
            if logged and not alone:
                # All stop at the same step, whichever of them was told to.
                signals.receive(processes.greatest(signals.received or 0))
            if signals.received and (alone or logged):
                _save_and_say(run, workdir, checkpoints, state, log, signals.received.name)
                break
    return state


def _begin(
    run: Run, workdir: Workdir, checkpoints: Checkpoints | None
) -> tuple[State, dict[str, Any] | None]:
    """The state to go on from, and what was measured before it and is not logged yet."""
    if checkpoints is None:
        return run.init_state(), None
    like = jax.eval_shape(run.init_state)
    saved = None

    def restore() -> int:
        nonlocal saved
        with workdir.writing():
            saved = checkpoints.restore(like, mend=True)
        return int(saved.state["step"]) if saved else 0

    step = processes.by_first(restore)
    if step == 0:
        return run.init_state(), None
    saved = processes.everywhere(lambda: saved or checkpoints.read(step, like))
    if step < run.total_steps:
        print(f"going on from step {step} of {run.total_steps}", flush=True)
    return run.put(saved.state), saved.log


def _save(
    run: Run,
    workdir: Workdir,
    checkpoints: Checkpoints,
    state: State,
    pending: dict[str, Any] | None = None,
) -> None:
    state = run.fetch(state)

    def save() -> int:
        workdir.sync_metrics()
        checkpoints.save(state, *([pending] if pending else []))
        return 0

    processes.by_first(save)


def _save_and_say(
    run: Run,
    workdir: Workdir,
    checkpoints: Checkpoints | None,
    state: State,
    log: "_Log",
    name: str,
) -> None:
    """Saves a state that is not at one of the usual places, and says that training stops here."""
    step = int(state["step"])
    where = f"{name}: stopped at step {step} of {run.total_steps}"
    if checkpoints is None:
        print(f"{where}; nothing is saved, for checkpoint_every is 0", file=sys.stderr, flush=True)
        return
    if checkpoints.latest_step() != step:
        log.check(checkpoints)
        _save(run, workdir, checkpoints, state, log.pending())
    print(
        f"{where}, which is saved in {workdir.path}; the same command goes on from there",
        file=sys.stderr,
        flush=True,
    )


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
    """What the steps measure, and the writing of it, a line at each log point.

    Attributes:
      sums, steps: since the last line; the sums stay on the device.
      note: the last line, for people.
    """

    def __init__(
        self,
        run: Run,
        workdir: Workdir,
        step: int,
        seconds: float,
        pending: dict[str, Any] | None = None,
    ):
        self._run, self._workdir = run, workdir
        self._schedule = make_schedule(run.config, run.total_steps)
        self._warned: set[str] = set()
        self._best = np.full(len(run.config.seeds), np.inf)  # least training error so far
        self.note = ""
        self.sums, self.steps = run.no_sums(), 0
        self._begun = self._last = time.perf_counter()
        self._before = seconds
        if pending is not None:
            self._resume(**pending)
        self._board = None
        if run.config.tensorboard and processes.is_first():
            from tensorboardX import SummaryWriter

            # What a process that was cut off has written of later steps does not count.
            folder = str(workdir.path / "tensorboard")
            suffix = f".from-step-{step}"
            self._board = SummaryWriter(folder, purge_step=step + 1, filename_suffix=suffix)

    def pending(self) -> dict[str, Any]:
        """What is not written yet, ready for JSON, which loses nothing of it."""
        now = time.perf_counter()
        sums = jax.device_get(self.sums)._asdict()
        return {
            "steps": self.steps,
            "seconds": self._before + now - self._begun,
            "seconds_of_steps": now - self._last,
            "sums": {name: x if x is None else x.tolist() for name, x in sums.items()},
        }

    def _resume(
        self, steps: int, seconds: float, seconds_of_steps: float, sums: dict[str, Any]
    ) -> None:
        # Earlier versions measured less.
        saved = self.sums._replace(**sums)
        read = jax.tree.map(lambda x, y: jnp.asarray(y, x.dtype), self.sums, saved)
        self.sums = self._run.put_whole(read)
        self.steps, self._before = steps, seconds
        self._last -= seconds_of_steps

    def check(self, checkpoints: Checkpoints | None) -> Sums:
        """The sums, on the host. TrainingError where a loss or gradient was not finite."""
        sums = jax.device_get(self.sums)
        if (sums.bad_step >= 0).any():
            raise TrainingError(_not_finite(self._run, sums.bad_step, checkpoints))
        return sums

    def write(self, step: int, checkpoints: Checkpoints | None) -> None:
        """Writes a line of means since the last. TrainingError where something is not finite."""
        sums = self.check(checkpoints)
        run, config = self._run, self._run.config
        now = time.perf_counter()
        of_transforms = {
            "localization_gradient_norm": (1, sums.localization_gradient_norm),
            "runaway_theta_percent": (100, sums.runaway),
            "theta_variation": (1, sums.theta_variation),
        }
        means = {
            "loss": sums.loss / self.steps,
            "train_error_percent": 100 * sums.errors / self.steps,
            "gradient_norm": sums.gradient_norm / self.steps,
            **{k: unit * x / self.steps for k, (unit, x) in of_transforms.items() if x is not None},
        }
        self._warn_of_collapse(step, np.asarray(means["train_error_percent"]))
        if "theta_variation" in means:
            self._warn_of_transforms(step, means)
        line: dict[str, Any] = {"step": step, "epoch": round(step / run.steps_per_epoch, 4)}
        line |= {name: [round(float(x), 6) for x in value] for name, value in means.items()}
        line["learning_rate"] = float(self._schedule(step - 1))
        images = self.steps * config.batch_size * len(config.seeds)
        line["images_per_second"] = round(images / (now - self._last), 1)
        line["seconds"] = round(self._before + now - self._begun, 3)

        def write() -> int:
            self._workdir.append_metrics(line)
            if self._board is not None:
                for name, value in means.items():
                    self._board.add_scalar(f"train/{name}", float(np.mean(value)), step)
            return 0

        processes.by_first(write)
        self.note = (
            f"epoch {step / run.steps_per_epoch:.1f}, loss {np.mean(means['loss']):.3f}, "
            f"train error {np.mean(means['train_error_percent']):.2f} %"
        )
        self.sums, self.steps = run.no_sums(), 0
        self._last = now

    def _warn_of_collapse(self, step: int, errors: np.ndarray) -> None:
        """Compares with the least errors of this process: after a restart they begin anew."""
        self._best = np.minimum(self._best, errors)
        worst = int(np.argmax(errors - self._best))
        if errors[worst] - self._best[worst] >= health.FELL_BACK:
            advice = health.advice_on_collapse(errors[worst], self._best[worst], step)
            self._warn_once("collapse", advice)

    def _warn_of_transforms(self, step: int, means: dict[str, Any]) -> None:
        """Says what goes wrong with the transforms, each thing once."""
        config, total = self._run.config, self._run.total_steps
        worst = float(means["runaway_theta_percent"].max())
        if worst >= health.WORTH_A_WARNING:
            self._warn_once("runaway", health.advice(worst, step))
        late = step >= max(health.PATIENCE, total / 10)
        if late and config.localization_rate and means["theta_variation"].min() < health.BLIND:
            self._warn_once("blind", health.advice_on_blindness(step))

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned and processes.is_first():
            self._warned.add(about)
            print(message, file=sys.stderr, flush=True)

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
        f"the loss or its gradient is not finite at step {step} (seed "
        f"{', '.join(map(str, seeds))}); {last}. Lower learning_rate or localization_rate, or set "
        "clip_norm, and train in a new workdir"
    )
