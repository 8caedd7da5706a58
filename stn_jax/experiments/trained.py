"""The networks that a table's runs have left behind."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stn_jax.experiments.results import identity
from stn_jax.experiments.tables import Row
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.inspect import load, of_seed
from stn_jax.training.run import Run


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
        """A row's network: a run of the one seed, and its parameters, leading with ``[1]``.

        Raises:
          ConfigError: it was not trained yet.
          DataError: the data cannot be had.
        """
        folders = {name: self.settings[name] for name in Config.FOLDERS if name in self.settings}
        path, seed = self.workdir(row)
        return of_seed(*load(path, folders), seed)
