"""The folder of a run: its configuration, metrics, result. Nothing half-written is left in it."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from stn_jax.training.config import Config, ConfigError


class WorkdirError(ConfigError):
    """A run's folder cannot be used: says which, why, and what to do."""


class WorkdirBusyError(WorkdirError):
    """Another process trains in the folder."""


class Workdir:
    """A run's folder: config.json, metrics.jsonl, result.json, checkpoints/, figures/."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self._locked = False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes out until the block ends, or this process does, in any way.

        May be nested.

        Raises:
          WorkdirBusyError: another process has it.
          WorkdirError: the folder cannot be written.
        """
        if self._locked:
            yield
            return
        with contextlib.ExitStack() as stack:
            with self.writing():
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.path / "lock").open("a+"))
                try:
                    # The kernel's lock, not the file, is what counts: it ends with the process.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    raise WorkdirBusyError(
                        f"another process ({file.read().strip() or 'unknown'}) trains in "
                        f"{self.path}: let it finish, stop it, or name another folder with "
                        "--workdir"
                    ) from None
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n")
                file.flush()
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def claim(self, config: Config) -> None:
        """Makes the folder a run of this configuration, or continues one; wants the lock.

        Raises:
          ConfigError: the folder holds a run of another configuration.
          WorkdirError: it cannot be written.
        """
        exists = (self.path / "config.json").exists()
        if exists and (differences := Config.load(self.path).differences(config)):
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({'; '.join(differences)}): "
                "name another folder with --workdir, or delete this one"
            )
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for left in self.path.glob(f"*{_UNFINISHED}"):  # by a process that was killed
                left.unlink()
        self.write_json("config.json", config.to_dict())

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an OSError of the block into a WorkdirError."""
        try:
            yield
        except OSError as error:
            advice = {
                errno.ENOSPC: "make room, and the same command goes on from the last checkpoint",
                errno.EDQUOT: "make room, and the same command goes on from the last checkpoint",
                errno.EACCES: "name another folder with --workdir",
                errno.EROFS: "name another folder with --workdir",
            }.get(error.errno or 0)
            raise WorkdirError(
                f"cannot write to workdir {self.path}: {error.strerror or error}"
                + (f"; {advice}" if advice else "")
            ) from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Writes a file whole or not at all."""
        with self.writing(), whole_file(self.path / name) as file:
            file.write(json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Reads a file; None where there is none."""
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to the first that is not whole."""
        try:
            text = (self.path / "metrics.jsonl").read_text(errors="replace")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.split("\n")[:-1]:  # behind the last line break is what was cut off
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(found, dict) or not {
                type(found.get(name)) for name in ("step", "epoch", "seconds")
            } <= {int, float}:
                break
            lines.append(found)
        return lines

    def rewind_metrics(self, step: int) -> float:
        """Drops the lines after a step. Returns the seconds of training up to there."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        with self.writing(), whole_file(self.path / "metrics.jsonl") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        return lines[-1]["seconds"] if lines else 0.0

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        with self.writing(), (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def sync_metrics(self) -> None:
        """Has metrics.jsonl on disk: a checkpoint must not get there before its history."""
        with self.writing(), (self.path / "metrics.jsonl").open("a") as file:
            os.fsync(file.fileno())


_UNFINISHED = ".unfinished"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Opens a text file that appears under its name only once it is written and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED, delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)
            raise
