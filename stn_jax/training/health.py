"""Signs that a training goes wrong: in its transforms before the loss shows it, or in errors."""

import jax
import jax.numpy as jnp

# Transforms that shrink the window to less than this, or stretch it beyond that, along any
# direction, show a network hardly anything of its image: one pixel, or a speck.
NEAR_ZERO, FAR_OUT = 0.05, 10.0
# Of so many examples (%) at once it is worth a warning.
WORTH_A_WARNING = 10.0
# A localization network whose transforms vary less than this answers without looking. It is given
# a tenth of the training, and so many steps, to begin.
BLIND, PATIENCE = 1e-4, 200
# Once it is wrong in so many more of the examples (%) than at its best, a training has collapsed.
FELL_BACK = 30.0


def stretches(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest factor by which a transform stretches the sampling window.

    Args:
      theta: ``[..., 2, 3]``.

    Returns:
      Two arrays ``[...]``: the singular values of theta's 2x2 part, in closed form.
    """
    a, b, c, d = theta[..., 0, 0], theta[..., 0, 1], theta[..., 1, 0], theta[..., 1, 1]
    with_turn, with_mirror = jnp.hypot(a + d, c - b) / 2, jnp.hypot(a - d, c + b) / 2
    return jnp.abs(with_turn - with_mirror), with_turn + with_mirror


def runaway(theta: jax.Array) -> jax.Array:
    """Which transforms have run away: ``[..., 2, 3]`` to bools ``[...]``; True where not finite."""
    least, greatest = stretches(theta)
    return ~((least >= NEAR_ZERO) & (greatest <= FAR_OUT))


def variation(theta: jax.Array) -> jax.Array:
    """How much transforms ``[B, 2, 3]`` differ: the greatest of the entries' standard deviations.

    It is 0 where a localization network gives the same for all images, as at the start of a
    training, or for good once none of its last ReLUs lets anything through.
    """
    return theta.std(0).max()


def advice(percent: float, step: int) -> str:
    """What to tell the user of transforms that run away."""
    return (
        f"warning: at step {step} {percent:.0f} % of the transforms have run away: they stretch "
        f"the window by less than {NEAR_ZERO} or more than {FAR_OUT:g}. Lower localization_rate, "
        "set clip_norm, or choose a transform that cannot (rotation); runaway_theta_percent in "
        "metrics.jsonl has its course"
    )


def advice_on_blindness(step: int) -> str:
    """What to tell the user of transforms that are the same for all images."""
    return (
        f"warning: at step {step} the transforms are the same for all images: the localization "
        "network has stopped looking (its ReLUs have died) or never began. Lower "
        "localization_rate where theta_variation in metrics.jsonl was once above 0, and raise it "
        "where it never was; train in a new workdir"
    )


def advice_on_collapse(percent: float, best: float, step: int) -> str:
    """What to tell the user of a training that has unlearned what it knew."""
    return (
        f"warning: at step {step} {percent:.0f} % of the training examples are wrong, after "
        f"{best:.0f} % before: the training has collapsed, and seldom recovers. Lower "
        "learning_rate or set clip_norm; train in a new workdir"
    )
