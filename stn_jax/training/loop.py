"""The training loop: trains a configuration in a workdir, with resumption, and evaluates it."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stn_jax.progress import Progress
from stn_jax.training import processes
from stn_jax.training.assemble import assemble
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.diagnosis import print_warnings
from stn_jax.training.evaluation import evaluate
from stn_jax.training.hooks import Hooks
from stn_jax.training.initial import initial_state
from stn_jax.training.metrics_log import MetricsLog
from stn_jax.training.monitor import Monitor, Trace
from stn_jax.training.provenance import environment
from stn_jax.training.run import Run, description
from stn_jax.training.signals import StopSignals
from stn_jax.training.step import State
from stn_jax.training.workdir import Workdir, config_of


def train(
    config: Config, workdir: str | Path | Workdir, hooks: Hooks | None = None
) -> dict[str, Any]:
    """Trains and evaluates a configuration, and writes everything to a folder.

    Called again with the same arguments, it resumes from the last checkpoint, or returns the result
    if the run is finished. Interruptions do not change the result. Called for a trained network
    with other evaluation settings (``Config.EVALUATION_FIELDS``), it evaluates again; other
    runtime settings keep the values of the training.

    SIGTERM and Ctrl-C stop the training after the steps in flight, once its state is saved.

    Args:
      config: the run's configuration.
      workdir: the run's folder; created if it does not exist.
      hooks: callbacks at steps, checkpoints and lines of metrics; ``DrawFigures()`` of
        :mod:`stn_jax.report.gallery` draws the same figures as the commands.

    Returns:
      The contents of ``result.json``.

    Raises:
      ConfigError: configuration and data are incompatible; or the folder holds another run, or a
        result of another evaluation but no checkpoint to evaluate again.
      WorkdirError: the folder cannot be written, or another process trains in it.
      DataError: the data cannot be loaded.
      TrainingError: the loss became infinite or NaN.
      ProcessError: another process of the run failed.
      KeyboardInterrupt: on Ctrl-C. SystemExit, with status 143: on SIGTERM.
    """
    folder = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
    with StopSignals() as signals, contextlib.ExitStack() as stack:
        environment()  # reads the commit now: the checkout may change during a long training

        run = processes.run_on_all(lambda: assemble(folder.resumed(config)))
        known, chosen = description(run), run.config  # with the numbers that were chosen

        def claim() -> dict[str, Any] | None:
            stack.enter_context(folder.lock())
            folder.check(chosen)
            result = folder.result()
            if result is None or result["step"] < run.total_steps:
                folder.claim(chosen)
                folder.write_network(known)
                return None
            return result

        trained = processes.broadcast_from_primary(claim)
        if trained is not None:
            return _reevaluate(run, folder, trained, hooks)
        state = fit(run, folder, signals, hooks)
        return evaluate(run, state["params"], int(state["step"]), folder, hooks=hooks)


def _reevaluate(
    run: Run, workdir: Workdir, result: dict[str, Any], hooks: Hooks | None
) -> dict[str, Any]:
    """The result of a finished run, evaluated again if the evaluation settings differ."""
    before = config_of(result)
    config = before.with_evaluation_of(run.config)
    changed = before.differences(config, Config.FOLDER_FIELDS)

    def claim(step: int) -> int:
        if changed and step != result["step"]:
            raise ConfigError(
                f"{workdir.path} holds a result of another evaluation ({'; '.join(changed)}), but "
                f"no checkpoint of step {result['step']} to evaluate again: use its evaluation "
                "settings, or train in another folder with --workdir"
            )
        if late := config.differences(run.config, ()):
            print(f"already trained; settings without effect: {'; '.join(late)}", flush=True)
        workdir.claim(config)
        return 0

    if not changed:
        processes.run_on_primary(lambda: claim(result["step"]))
        print(f"{workdir.path} is already trained and evaluated", flush=True)
        if processes.is_primary():
            print_warnings(result)
        return result
    state, _ = _begin(run, workdir, Checkpoints(workdir.checkpoints))
    step = int(state["step"])
    processes.run_on_primary(lambda: claim(step))
    print(f"evaluating {workdir.path} again: {'; '.join(changed)}", flush=True)
    run = dataclasses.replace(run, config=config)
    return evaluate(run, state["params"], step, workdir, trained=result, hooks=hooks)


def fit(
    run: Run,
    workdir: Workdir,
    signals: StopSignals | None = None,
    hooks: Hooks | None = None,
) -> State:
    """Trains to the end, from the last checkpoint if there is one.

    Args:
      run: the run to train.
      workdir: its folder.
      signals: signals that stop it.
      hooks: callbacks.

    Returns:
      The last state.
    """
    signals, hooks = signals or StopSignals(), hooks or Hooks()
    # Existing checkpoints are resumed from, even if the run writes none.
    exists = processes.run_on_primary(lambda: workdir.checkpoints.exists())
    keep, wanted = run.config.keep_checkpoints, run.config.checkpoint_every or exists
    checkpoints = Checkpoints(workdir.checkpoints, keep=keep) if wanted else None
    state, pending = _begin(run, workdir, checkpoints)
    step = int(state["step"])

    def begin_log() -> MetricsLog:
        seconds = workdir.rewind_metrics(step) if processes.is_primary() else 0.0
        return MetricsLog(run, workdir, step, seconds, pending, hooks)

    log = processes.run_on_all(begin_log)
    if step < run.total_steps and processes.is_primary():
        hooks.before_steps(run, step)
    training = _Training(run, workdir, hooks, checkpoints, log)
    with signals.held_back(), log:
        return training.steps(state, signals)


@dataclasses.dataclass(frozen=True)
class _Training:
    """The loop over the steps of a run, and what is due between them."""

    run: Run
    workdir: Workdir
    hooks: Hooks
    checkpoints: Checkpoints | None
    log: MetricsLog

    def steps(self, state: State, signals: StopSignals) -> State:
        """Takes the steps that are left, or those up to a signal to stop."""
        run, log = self.run, self.log
        step, images = int(state["step"]), run.config.batch_size * len(run.config.seeds)
        single_process = jax.process_count() == 1
        train_steps, trace = run.train_steps(), Trace(run, self.workdir)
        monitor = Monitor(run, self.workdir)
        with (
            contextlib.closing(trace),
            Progress(
                "train",
                run.total_steps * images,
                "images",
                start=step * images,
                quiet=not processes.is_primary(),
            ) as progress,
        ):
            while step < run.total_steps:
                end = _next_stop(run, step, trace.steps)
                trace.before(step)
                state, log.metrics = train_steps(state, log.metrics, run.data, np.int32(end - step))
                log.steps += end - step
                trace.after(end, state)
                logged = self._after_dispatch(state, end, monitor)
                progress.advance((end - step) * images, log.note)
                step = end
                self.hooks.after_steps(step)
                if logged and not single_process:
                    # All processes stop at the same step, whichever of them got the signal.
                    signals.receive(processes.all_reduce_max(signals.received or 0))
                if signals.received and (single_process or logged):
                    self._stop(state, signals.received.name)
                    break
        return state

    def _after_dispatch(self, state: State, step: int, monitor: Monitor) -> bool:
        """Evaluates, logs and saves if that is due; whether a line of metrics was written."""
        run = self.run
        save = self.checkpoints if _checkpoint_due(run, step) else None
        evaluated = None
        if monitor.due(step):
            self.log.check(self.checkpoints)
            start = time.perf_counter()
            evaluated = monitor.evaluate(state)
            self.log.exclude(time.perf_counter() - start)
        logged = step % run.config.log_every == 0 or step == run.total_steps
        logged = logged or save is not None or evaluated is not None
        if logged:
            self.log.write(step, self.checkpoints, evaluated)
        if save is not None:
            self._save(save, state)
        return logged

    def _save(
        self, checkpoints: Checkpoints, state: State, pending: dict[str, Any] | None = None
    ) -> None:
        state = self.run.fetch(state)

        def save() -> int:
            self.workdir.sync_metrics()
            checkpoints.save(state, pending)
            self.hooks.after_checkpoint(int(state["step"]))
            return 0

        processes.run_on_primary(save)

    def _stop(self, state: State, name: str) -> None:
        """Saves the state when a signal stops the training, and reports it."""
        step = int(state["step"])
        message = f"{name}: stopped at step {step} of {self.run.total_steps}"
        if self.checkpoints is None:
            message += "; nothing is saved because checkpoint_every is 0"
            print(message, file=sys.stderr, flush=True)
            return
        if self.checkpoints.latest_step() != step:
            self.log.check(self.checkpoints)
            self._save(self.checkpoints, state, self.log.pending())
        print(
            f"{message}, saved in {self.workdir.path}; run the same command again to resume",
            file=sys.stderr,
            flush=True,
        )


def _begin(
    run: Run, workdir: Workdir, checkpoints: Checkpoints | None
) -> tuple[State, dict[str, Any] | None]:
    """The state to start from, and the metrics up to it that are not logged yet."""
    if checkpoints is None:
        return initial_state(run), None
    like = jax.eval_shape(run.init_state)
    saved = None

    def restore() -> int:
        nonlocal saved
        with workdir.writing():
            saved = checkpoints.restore(like, repair=True)
        return int(saved.state["step"]) if saved else 0

    step = processes.run_on_primary(restore)
    if step == 0:
        return initial_state(run), None
    saved = processes.run_on_all(lambda: saved or checkpoints.read(step, like))
    if step < run.total_steps:
        print(f"resuming from step {step} of {run.total_steps}", flush=True)
    return run.put(saved.state), saved.log


def _next_stop(run: Run, step: int, bounds: Sequence[int]) -> int:
    """The step at which the next dispatch ends: no later than where something is due."""
    config = run.config
    return min(
        step + config.steps_per_dispatch,
        (step // config.log_every + 1) * config.log_every,
        (step // run.steps_per_epoch + 1) * run.steps_per_epoch,
        *(bound for bound in bounds if bound > step),
    )


def _checkpoint_due(run: Run, step: int) -> bool:
    every = run.config.checkpoint_every * run.steps_per_epoch
    return step == run.total_steps or bool(every and step % every == 0)
