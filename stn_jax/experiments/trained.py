"""The networks that a table's runs have left behind, or that come with the package."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from stn_jax import pretrained
from stn_jax.experiments.results import identity
from stn_jax.experiments.tables import Row
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.restore import load, of_seed, open_pretrained
from stn_jax.training.run import Run


class Networks(Protocol):
    """Where a row's trained network is had from."""

    def open(self, row: Row) -> tuple[Run, Any]:
        """A row's network: a run of one seed, and its parameters, leading with ``[1]``.

        Raises:
          ConfigError: it is not to be had.
          DataError: the data cannot be had.
        """


@dataclasses.dataclass(frozen=True)
class Packaged:
    """Networks whose weights come with the package.

    Attributes:
      folders: where the data is: data_dir, manual_dir, cache_dir.
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
    """Trained networks: where, and which.

    Attributes:
      root: folder of the workdirs.
      settings: fields of Config beside the rows' own, with which they were trained. Where data is
        looked for is the workdir's own affair unless these say.
      seeds: of each row the first of these that is trained.
    """

    root: str | Path
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]

    def workdir(self, row: Row) -> tuple[Path, int]:
        """The folder in which a row's network was trained to the end, and its seed.

        It may have been trained there alone or together with other seeds.

        Raises:
          ConfigError: there is none.
        """
        paths = sorted((Path(self.root) / row.name).glob("*/result.json"))
        for seed in self.seeds:
            config = row.config({**self.settings, "seeds": (seed,)})
            for path in paths:
                found = Config.load(path.parent)
                alone = dataclasses.replace(found, seeds=(seed,))
                if seed in found.seeds and identity(alone) == identity(config):
                    return path.parent, seed
        config = row.config(self.settings)
        wanted = f"seed {' or '.join(map(str, self.seeds))}"
        raise ConfigError(
            f"{self.root} holds no finished training of {row.name} with {wanted}, "
            f"{config.epochs} epochs of {config.dataset} and these settings; train it first, or "
            "say which there is with --workdir, --seeds, --epochs, --dataset"
        )

    def open(self, row: Row) -> tuple[Run, Any]:
        """See :class:`Networks`."""
        folders = {
            name: self.settings[name] for name in Config.FOLDER_FIELDS if name in self.settings
        }
        path, seed = self.workdir(row)
        return of_seed(*load(path, folders), seed)
