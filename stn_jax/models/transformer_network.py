"""A network: a classifier with any number of spatial transformers."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models.images import check_images
from stn_jax.models.submodules import call, call_sequence
from stn_jax.models.transformer import SpatialTransformer


class Intermediates(NamedTuple):
    """Intermediate results of a network's forward pass."""

    # [B, 2, 3], maps output to input coordinates; other shapes for other families of transforms
    # (projective: [B, 3, 3]; tps: [B, K, K, 2]); None without a transformer
    theta: jax.Array | None
    warped: jax.Array  # [B, H', W', C]: the transformer's output; without one, the input
    # Theta and output of each further transformer, in their order.
    further: tuple[tuple[jax.Array, jax.Array], ...] = ()

    @property
    def thetas(self) -> tuple[jax.Array, ...]:
        """Theta of each transformer, in their order."""
        first = () if self.theta is None else (self.theta,)
        return (*first, *(theta for theta, _ in self.further))


class Stack(nn.Module):
    """Blocks in sequence, followed by a last module or function."""

    blocks: Sequence[nn.Module]
    last: Callable[..., Any]

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return call(self.last, call_sequence(self.blocks, x, train), train)


class Network(nn.Module):
    """A classifier, optionally with spatial transformers.

    The transformer warps the map after ``warp_depth`` blocks (0: the input). The localization
    network reads the map after ``localization_depth`` blocks, computed by the classifier's own
    layers, which are thereby shared: STN-CX is (X, X), STN-SLX is (0, X). Further transformers
    follow at the same depth or deeper ones (ST-CNN Multi of Jaderberg et al. 2015, Section 4.2), or
    warp the same map in parallel; their outputs are then stacked along the channels (Section 4.3).

    Attributes:
      blocks: modules from map to map, called as ``block(x, train=...)``, or ``block(x)`` if they
        take no such argument.
      head: module called in the same way, from the last map to logits.
      transformer: None for a plain classifier.
      warp_depth, localization_depth: see above.
      further_transformers: transformers that follow the first one.
      further_depths: warp_depth and localization_depth of each of them, with warp depths in
        ascending order.
      parallel: how many successive transformers warp the same map, from the first transformer on;
        (2, 1) is two in parallel, then one of the stacked map. Empty: each warps what the one
        before it returned. Transformers in parallel share no layers with the classifier.
    """

    blocks: Sequence[nn.Module]
    head: nn.Module
    transformer: SpatialTransformer | None = None
    warp_depth: int = 0
    localization_depth: int = 0
    further_transformers: Sequence[SpatialTransformer] = ()
    further_depths: Sequence[tuple[int, int]] = ()
    parallel: Sequence[int] = ()

    # With positional flags, so that nn.remat can be told that they are static.
    def __call__(
        self, images: jax.Array, train: bool = False, return_details: bool = False
    ) -> jax.Array | tuple[jax.Array, Intermediates]:
        """Classifies a batch.

        ``nn.remat`` and ``nn.jit`` take static arguments by position, where ``self`` is 0: modules
        of ``nn.remat(Network, static_argnums=(2, 3))`` are called with both flags, as
        ``network(images, True, False)``.

        Args:
          images: ``[B, H, W, C]``, normalized.
          train: whether dropout is on (it then needs ``rngs={"dropout": key}``).
          return_details: whether to return the intermediate results too.

        Returns:
          Logits ``[B, classes]`` (``[B, positions, classes]`` for house numbers) in float32; with
          return_details, logits and :class:`Intermediates`.

        Raises:
          TypeError: the images are not floating point.
          ValueError: they do not have four axes or have another number of channels than the
            network, or a depth is out of range.
        """
        check_images(images, self.variables, copies=self.copies(0))
        x, depth = images, 0
        steps: list[Any] = []  # theta and output of each transformer
        for group in self.placements():
            warp_depth = group[0].warp_depth
            x = call_sequence(self.blocks[depth:warp_depth], x, train)
            depth = warp_depth
            outputs = [self._transform(placement, x, train) for placement in group]
            x = outputs[0][1] if len(group) == 1 else jnp.concatenate([y for _, y in outputs], -1)
            steps += outputs
        logits = call(self.head, call_sequence(self.blocks[depth:], x, train), train)
        (theta, warped), *further = steps or [(None, x)]
        details = Intermediates(theta, warped, tuple(further))
        return (logits, details) if return_details else logits

    def _transform(
        self, placement: "Placement", x: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Theta and output of a transformer of the map ``x``."""
        shared = self.blocks[placement.warp_depth : placement.localization_depth]
        warped, theta = placement.transformer(
            x,
            features=functools.partial(call_sequence, shared, train=train),
            return_theta=True,
            train=train,
        )
        return theta, warped

    @nn.nowrap
    def copies(self, depth: int) -> int:
        """How many warped copies of the map at a depth its transformers stack along channels."""
        groups = [group for group in self.placements() if group[0].warp_depth == depth]
        return math.prod(map(len, groups))

    @nn.nowrap
    def placements(self) -> list[tuple["Placement", ...]]:
        """The transformers in sequence; those in parallel are in one tuple.

        Raises:
          ValueError: a depth is out of range, or transformers cannot be in parallel.
        """
        if self.transformer is None:
            return []
        first = Placement(self.transformer, self.warp_depth, self.localization_depth)
        pairs = zip(self.further_transformers, self.further_depths, strict=True)
        placements = [first, *(Placement(transformer, *depths) for transformer, depths in pairs)]
        least = 0
        for _, warp_depth, localization_depth in placements:
            if not least <= warp_depth <= localization_depth <= len(self.blocks):
                raise ValueError(
                    f"warp_depth is {warp_depth} and localization_depth {localization_depth}; "
                    f"expected {least} <= warp_depth <= localization_depth <= {len(self.blocks)}, "
                    "the number of blocks"
                )
            least = warp_depth
        sizes = tuple(self.parallel) or (1,) * len(placements)
        if min(sizes) < 1 or sum(sizes) != len(placements):
            raise ValueError(
                f"parallel is {sizes}; expected positive numbers whose sum is the number of "
                f"transformers, {len(placements)}"
            )
        ends = list(itertools.accumulate(sizes))
        groups = [
            tuple(placements[end - size : end]) for end, size in zip(ends, sizes, strict=True)
        ]
        for group in groups:
            depths = {depth for _, *both in group for depth in both}
            if len(group) > 1 and len(depths) > 1:
                raise ValueError(
                    f"transformers in parallel have depths {sorted(depths)}; expected a single "
                    "one: the layers after it see all of their outputs, so that none can be shared"
                )
        return groups


class Placement(NamedTuple):
    """A transformer and the depths of the map that it warps and of the map that it reads."""

    transformer: SpatialTransformer
    warp_depth: int
    localization_depth: int


def is_transformer(name: str) -> bool:
    """Whether a network's parameters of this name are a transformer's."""
    return name == "transformer" or name.startswith("further_transformers_")
