"""The folder of a run: its configuration, metrics, result. Nothing half-written is left in it."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from stn_jax.training.config import Config, ConfigError


class Workdir:
    """A run's folder: config.json, metrics.jsonl, result.json, checkpoints/, figures/."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"

    def claim(self, config: Config) -> None:
        """Makes the folder a run of this configuration, or continues one.

        Raises:
          ConfigError: the folder holds a run of another configuration, or cannot be written.
        """
        exists = (self.path / "config.json").exists()
        if exists and (differences := Config.load(self.path).differences(config)):
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({'; '.join(differences)}): "
                "name another folder with --workdir, or delete this one"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json("config.json", config.to_dict())
        except OSError as error:
            raise ConfigError(f"cannot write to workdir {self.path}: {error.strerror}") from None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Writes a file whole or not at all."""
        with whole_file(self.path / name) as file:
            file.write(json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Reads a file; None where there is none."""
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut off in writing does not count."""
        try:
            text = (self.path / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def rewind_metrics(self, step: int) -> float:
        """Drops the lines after a step. Returns the seconds of training up to there."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        with whole_file(self.path / "metrics.jsonl") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        return lines[-1]["seconds"] if lines else 0.0

    def append_metrics(self, line: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Opens a text file that appears under its name only once it is written and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
