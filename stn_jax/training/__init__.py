"""Training and evaluation from a configuration: :func:`train`, :class:`Config`, :class:`Hooks`."""

from stn_jax.extras import extra

with extra("train"):
    from stn_jax.training.config import Config, ConfigError
    from stn_jax.training.hooks import Hooks
    from stn_jax.training.loop import train
    from stn_jax.training.metrics_log import TrainingError

__all__ = ["Config", "ConfigError", "Hooks", "TrainingError", "train"]
