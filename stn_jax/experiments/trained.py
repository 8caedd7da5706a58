"""Sources of trained networks: a table's runs, or the weights that come with the package."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from stn_jax import pretrained
from stn_jax.experiments.results import identity
from stn_jax.experiments.tables import Row
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.restore import load, open_pretrained, select_seed
from stn_jax.training.run import Run


class Networks(Protocol):
    """A source of trained networks."""

    def open(self, row: Row) -> tuple[Run, Any]:
        """A row's network: a run of one seed, and its parameters with leading axis ``[1]``.

        Raises:
          ConfigError: the network is not available.
          DataError: the data cannot be loaded.
        """


@dataclasses.dataclass(frozen=True)
class Packaged:
    """Networks whose weights come with the package.

    Attributes:
      folders: data_dir, manual_dir and cache_dir.
    """

    folders: Mapping[str, Any]

    def open(self, row: Row) -> tuple[Run, Any]:
        """See :class:`Networks`."""
        config = row.config()
        name = f"{config.task}/{config.variant}"
        if name not in pretrained.available():
            raise ConfigError(
                f"no weights of {row.name} come with the package; train it and leave out "
                "--pretrained"
            )
        return open_pretrained(name, self.folders)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Networks from a table's workdirs.

    Attributes:
      root: folder of the workdirs.
      settings: the fields of Config that overrode the rows' defaults in training. Data folders
        given here override those of the workdir.
      seeds: for each row, the first of these that has been trained is used.
    """

    root: str | Path
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]

    def workdir(self, row: Row) -> tuple[Path, int]:
        """The workdir of a row's finished training, and its seed.

        The run may include other seeds.

        Raises:
          ConfigError: there is no such run.
        """
        paths = sorted((Path(self.root) / row.name).glob("*/result.json"))
        for seed in self.seeds:
            config = row.config({**self.settings, "seeds": (seed,)})
            for path in paths:
                found = Config.load(path.parent)
                one_seed = dataclasses.replace(found, seeds=(seed,))
                if seed in found.seeds and identity(one_seed) == identity(config):
                    return path.parent, seed
        config = row.config(self.settings)
        wanted = f"seed {' or '.join(map(str, self.seeds))}"
        raise ConfigError(
            f"{self.root} holds no finished training of {row.name} with {wanted}, "
            f"{config.epochs} epochs of {config.dataset} and these settings; train it first, or "
            "choose an existing one with --workdir, --seeds, --epochs, --dataset"
        )

    def open(self, row: Row) -> tuple[Run, Any]:
        """See :class:`Networks`."""
        folders = {
            name: self.settings[name] for name in Config.FOLDER_FIELDS if name in self.settings
        }
        path, seed = self.workdir(row)
        return select_seed(*load(path, folders), seed)
