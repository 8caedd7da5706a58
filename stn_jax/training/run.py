"""A run: a configuration, and the task, network, data and devices that it stands for."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stn_jax.analysis.geometry import conjugate, window_theta
from stn_jax.analysis.network_equivariance import network_features, network_geometry
from stn_jax.data import sources
from stn_jax.data.tasks import Task
from stn_jax.models import Intermediates, Network
from stn_jax.training import microbatch
from stn_jax.training.config import Config
from stn_jax.training.optimizer import make_optimizer, make_schedule
from stn_jax.training.placement import Placement
from stn_jax.training.step import Data, Metrics, State, init_state, make_train_steps
from stn_jax.warp import affine, grid_sample


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and what it stands for: see :func:`stn_jax.training.assemble.assemble`.

    Attributes:
      config: what is trained, on what, and how.
      task: how images are shown to the network.
      model: the network.
      data: the training set, on the device.
      test: what it is evaluated on, on the host.
      placement: how it is laid over devices; None: on one.
    """

    config: Config
    task: Task
    model: Network
    data: Data
    test: sources.Split
    placement: Placement | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.images) // self.config.batch_size

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    @property
    def microbatch(self) -> int:
        """How many of a batch's examples are taken at once."""
        config = self.config
        if config.microbatch:
            return config.microbatch
        # With theta_clip parts would cost more than they save.
        whole = config.theta_clip and self.model.transformer is not None
        return config.batch_size if whole else self.at_once(config.batch_size)

    def at_once(self, size: int) -> int:
        """How many of so many examples are best taken at once; a divisor."""
        if self.placement is not None and not self.placement.single:
            return size
        return microbatch.automatic(size, math.prod(self.seen_shape()))

    @property
    def devices(self) -> int:
        """How many devices it is on."""
        return 1 if self.placement is None else self.placement.mesh.size

    @functools.cached_property
    def schedule(self) -> optax.Schedule:
        """The classifier's learning rate by step."""
        return make_schedule(self.config, self.total_steps)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config, self.total_steps)

    def init_state(self) -> State:
        """The state before the first step."""
        return init_state(
            self.model, self.optimizer, self.task, self.data, self.config.seeds, self.placement
        )

    def train_steps(self) -> Callable[[State, Metrics, Data, Any], tuple[State, Metrics]]:
        """The function that takes its steps, see :func:`stn_jax.training.step.make_train_steps`."""
        return make_train_steps(
            self.model,
            self.optimizer,
            self.task,
            seeds=self.config.seeds,
            batch_size=self.config.batch_size,
            microbatch=self.microbatch,
            theta_clip=self.config.theta_clip,
            label_smoothing=self.config.label_smoothing,
            placement=self.placement,
        )

    def put(self, state: State) -> State:
        """A state as it was saved, laid over the run's devices."""
        if self.placement is None or self.placement.single:
            return state
        return self.placement.put(state, self.placement.state())

    def fetch(self, tree: Any) -> Any:
        """Arrays of the run as they are for one device alone, in every process."""
        return tree if self.placement is None else self.placement.fetch(tree)

    def empty_metrics(self) -> Metrics:
        """The sums over no steps."""
        return self.replicate(Metrics.empty(self.model, len(self.config.seeds)))

    def replicate(self, tree: Any) -> Any:
        """Arrays that every process has, on every device of the run."""
        return tree if self.placement is None else self.placement.put(tree, self.placement.whole)

    def alone(self) -> "Run":
        """This run for one device alone, in every process; all have to call it."""
        return dataclasses.replace(self, data=self.fetch(self.data), placement=None)

    def apply(self, params: Any, images: jax.Array) -> tuple[jax.Array, Intermediates]:
        """Logits of one seed's network and what it did, for normalised images, as in evaluation."""
        result: Any = self.model.apply({"params": params}, images, return_details=True)
        return result

    def pose(self, details: Intermediates) -> jax.Array | None:
        """What the transformer did, as affine transforms ``[B, 2, 3]``; None without one.

        They are in the image's coordinates (``align_corners=False``), whichever map was warped.
        Where the family of transforms is not affine, these are what comes near it: see
        :meth:`stn_jax.warp.transforms.Transform.as_affine`.
        """
        if details.theta is None or self.model.transformer is None:
            return None
        theta = self.model.transformer.family().as_affine(details.theta)
        return conjugate(theta, affine.invert(self._window))

    @functools.cached_property
    def _window(self) -> np.ndarray:
        """From the coordinates in which the transformer works to the image's, ``[2, 3]``."""
        depth, shape = self.model.warp_depth, self.seen_shape()
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

        def warped(image: jax.Array) -> jax.Array:
            variables = self.model.init(jax.random.key(0), image)
            return network_features(self.model, variables)(image)[str(depth)]

        height, width = jax.eval_shape(warped, image).shape[1:3]
        window = window_theta(network_geometry(self.model)[str(depth)], shape[:2], (height, width))
        if self.config.align_corners:
            window[:, :2] *= (width - 1) / width, (height - 1) / height
        return window

    def denormalize(self, images: jax.Array) -> np.ndarray:
        """Images as the network sees them, as they were before: ``[B, H, W, C]`` in [0, 1]."""
        return np.clip(np.asarray(images * self.data.deviation + self.data.mean), 0, 1)

    def aligned(self, seen: jax.Array, details: Intermediates) -> np.ndarray:
        """The input as the transformer aligns it, to look at: ``[B, H', W', C]`` in [0, 1].

        Where a feature map was warped, it is what the same transform does to the input.
        """
        warped, transformer = details.warped, self.model.transformer
        if self.model.warp_depth and transformer is not None and details.theta is not None:
            align_corners = transformer.align_corners
            grid = transformer.family().grid_of(
                details.theta, seen.shape[1:3], align_corners=align_corners
            )
            warped = grid_sample(
                seen, grid, padding_mode=transformer.padding_mode, align_corners=align_corners
            )
        return self.denormalize(warped)

    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the network sees."""
        keys = jnp.stack([jax.random.key(0)])
        seen = jax.eval_shape(self.task.distort, keys, self.data.images[:1], self.data.images)
        _, height, width, channels = seen.images.shape
        return height, width, channels


def model_options(config: Config, classes: int) -> dict[str, Any]:
    """The options of create_model for a configuration's network, ready for JSON."""
    return {
        "recipe": config.recipe,
        "classes": classes,
        "width": config.width,
        "dropout": config.dropout,
        "iterations": config.iterations,
        "window": config.window,
        "transform": config.transform,
        "padding_mode": config.padding_mode or None,
        "align_corners": config.align_corners,
        "dtype": "bfloat16" if config.compute_dtype == "bfloat16" else None,
    }
