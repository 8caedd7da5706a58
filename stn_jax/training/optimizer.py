"""The optimizer: SGD with Nesterov momentum and a schedule, optionally with Adam; from optax."""

from typing import Any

import jax
import optax

from stn_jax.models.transformer_network import is_transformer
from stn_jax.training.config import Config

# The classifier's peak rate where batches have so many examples or more, and runs so many steps.
PEAK, BATCH, STEPS = 0.2, 256, 600


def default_learning_rate(batch_size: int, steps: int) -> float:
    """The classifier's peak learning rate for a number of examples a batch and of steps.

    In proportion to the batch (Goyal et al. 2017, arXiv:1706.02677), and below STEPS to the root of
    the steps, since the rate rises faster in shorter runs. docs/own_data.md has the trials.
    """
    batch, run = min(1.0, batch_size / BATCH), min(1.0, steps / STEPS) ** 0.5
    return float(f"{PEAK * batch * run:.3g}")


def make_schedule(config: Config, steps: int) -> optax.Schedule:
    """The classifier's learning rate as a function of the step, for a run of ``steps`` steps."""
    peak = config.learning_rate
    if config.schedule == "constant":
        return optax.constant_schedule(peak)
    if config.schedule == "step":
        parts = config.step_drops + 1
        return optax.piecewise_constant_schedule(
            peak, {steps * i // parts: 0.1 for i in range(1, parts)}
        )
    rise = max(1, round(steps * config.warmup))
    return optax.warmup_cosine_decay_schedule(
        peak / 25, peak, rise, max(steps, rise + 1), peak / 10_000
    )


def make_adam_schedule(config: Config, steps: int) -> optax.Schedule:
    """Adam's learning rate for the localization network, as a function of the step.

    Under the one-cycle schedule it peaks while the classifier's rate still rises: alignment is
    learned fastest while the classifier cannot yet handle all poses.
    """
    peak = config.learning_rate * config.localization_rate
    if config.schedule != "one_cycle":
        schedule = make_schedule(config, steps)
        return lambda step: schedule(step) * config.localization_rate
    rise = max(1, round(0.05 * steps))
    fall = max(1, round(config.localization_decay * steps))
    pieces = [(0, peak, rise), (peak, peak, 1), (peak, peak / 100, fall)]
    return optax.join_schedules(
        [optax.linear_schedule(*piece) for piece in pieces], [rise, steps - fall]
    )


def make_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """SGD with the configuration's clipping, weight decay, momentum, schedule and rates.

    With ``localization_optimizer="adam"`` the transformer's parameters are trained by Adam, without
    clipping and weight decay, with :func:`make_adam_schedule`.
    """
    schedule = make_schedule(config, steps)
    parts = [
        optax.add_decayed_weights(config.weight_decay, _is_kernel),
        optax.sgd(schedule, config.momentum, nesterov=True),
    ]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    sgd: optax.GradientTransformation = optax.chain(*parts)
    if config.localization_optimizer == "adam":
        adam = optax.adam(make_adam_schedule(config, steps))
        return optax.partition({True: adam, False: sgd}, param_labels=_is_localization)
    return optax.chain(sgd, optax.masked(optax.scale(config.localization_rate), _is_localization))


def _is_kernel(params: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _is_localization(params: Any) -> Any:
    """True for the transformer's parameters: the localization network and the layer to theta."""
    return jax.tree.map_with_path(lambda path, _: is_transformer(path[0].key), params)
