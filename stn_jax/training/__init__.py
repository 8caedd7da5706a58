"""Training and evaluation from a configuration: :func:`train`, :class:`Config`."""

from stn_jax.training.config import Config, ConfigError
from stn_jax.training.loop import TrainingError, train

__all__ = ["Config", "ConfigError", "TrainingError", "train"]
