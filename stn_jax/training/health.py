"""Signs that training goes wrong: in the transforms, before the loss shows it, or in the error."""

import jax
import jax.numpy as jnp
import numpy as np

# A transform that scales the sampling grid by less than MIN_STRETCH or more than MAX_STRETCH along
# any direction shows hardly anything of its image: a single pixel, or the image as a speck.
MIN_STRETCH, MAX_STRETCH = 0.05, 10.0
# Warn when the transforms of this percentage of the examples have run away.
RUNAWAY_PERCENT = 10.0
# A localization network whose transforms vary less than MIN_VARIATION ignores its input. It is
# given a tenth of the training, and at least GRACE_STEPS steps, to start.
MIN_VARIATION, GRACE_STEPS = 1e-4, 200
# Training has collapsed when its error is this many percentage points above its best, or that of
# guessing after it was below this fraction of it.
COLLAPSE_PERCENT, BELOW_CHANCE = 30.0, 0.9


def singular_values(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest factor by which a transform scales the sampling grid.

    Args:
      theta: ``[..., 2, 3]``.

    Returns:
      Two arrays ``[...]``: the singular values of theta's 2x2 part, in closed form.
    """
    a, b, c, d = theta[..., 0, 0], theta[..., 0, 1], theta[..., 1, 0], theta[..., 1, 1]
    with_turn, with_mirror = jnp.hypot(a + d, c - b) / 2, jnp.hypot(a - d, c + b) / 2
    return jnp.abs(with_turn - with_mirror), with_turn + with_mirror


def runaway(theta: jax.Array) -> jax.Array:
    """Whether transforms ``[..., 2, 3]`` have run away or are not finite: bools ``[...]``."""
    least, greatest = singular_values(theta)
    return ~((least >= MIN_STRETCH) & (greatest <= MAX_STRETCH))


def variation(theta: jax.Array) -> jax.Array:
    """How much transforms ``[B, 2, 3]`` differ: the largest standard deviation of an entry.

    It is 0 if the localization network's output is the same for all images, as at the start of
    training, or permanently once all ReLUs of its last layer have died.
    """
    return theta.std(0).max()


def chance_error(labels: np.ndarray) -> float:
    """The error of always predicting the most frequent label ``[N]`` or labels ``[N, positions]``.

    Returns:
      A fraction.
    """
    _, counts = np.unique(labels, axis=0, return_counts=True)
    return 1 - float(counts.max() / len(labels))


def at_chance(errors: np.ndarray, chance: float, count: int) -> np.ndarray:
    """Whether errors over ``count`` examples are not below chance, by two standard errors."""
    return errors >= chance - 2 * (chance * (1 - chance) / count) ** 0.5


def collapsed(errors: np.ndarray, best: np.ndarray, chance: float) -> np.ndarray:
    """Whether training errors (percent) show a collapse since the best; chance is a fraction."""
    guesses = (errors >= 100 * chance) & (best < 100 * chance * BELOW_CHANCE)
    return (errors - best >= COLLAPSE_PERCENT) | guesses


def runaway_warning(percent: float, step: int) -> str:
    """The warning that transforms run away."""
    return (
        f"warning: at step {step} {percent:.0f} % of the transforms have run away: they scale the "
        f"sampling grid by less than {MIN_STRETCH} or more than {MAX_STRETCH:g}. Lower "
        "localization_rate, set clip_norm, or choose a transform that cannot run away (rotation); "
        "see runaway_theta_percent in metrics.jsonl"
    )


def constant_theta_warning(step: int) -> str:
    """The warning that the transforms are the same for all images."""
    return (
        f"warning: at step {step} the transforms are the same for all images: the localization "
        "network's ReLUs have died, or it never started to learn. Lower localization_rate if "
        "theta_variation in metrics.jsonl was ever above 0, otherwise raise it; train in a new "
        "workdir"
    )


def collapse_warning(percent: float, best: float, step: int) -> str:
    """The warning that training has collapsed."""
    return (
        f"warning: at step {step} the training error is {percent:.0f} %, after {best:.0f} % "
        "before: the training has collapsed, and will probably not recover. Lower learning_rate "
        "or set clip_norm; train in a new workdir"
    )
