"""A run: a configuration with its task, network, data and device placement."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stn_jax.analysis.frames import transformer_frames
from stn_jax.analysis.geometry import conjugate
from stn_jax.data import sources
from stn_jax.data.tasks import Task
from stn_jax.models import Intermediates, Network
from stn_jax.models.activity import apply_and_observe
from stn_jax.models.classifiers import fitting
from stn_jax.models.variants import transformer_names
from stn_jax.training import microbatch
from stn_jax.training.config import Config
from stn_jax.training.optimizer import make_optimizer, make_schedule
from stn_jax.training.placement import Placement
from stn_jax.training.step import Data, Metrics, State, init_state, make_train_steps
from stn_jax.warp import affine


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration with its parts, see :func:`stn_jax.training.assemble.assemble`.

    Attributes:
      config: the configuration.
      task: how images are distorted.
      model: the network.
      data: the training set, on the devices.
      test: the evaluation set, on the host.
      placement: distribution over devices; None: on one device.
      notes: what was done to the data set's images and splits, a line each.
    """

    config: Config
    task: Task
    model: Network
    data: Data
    test: sources.Split
    placement: Placement | None = None
    notes: tuple[str, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.images) // self.config.batch_size

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    @property
    def microbatch(self) -> int:
        """The number of examples in a microbatch."""
        config = self.config
        if config.microbatch:
            return config.microbatch
        # With theta_clip microbatches would cost more than they save.
        whole = config.theta_clip and self.model.transformer is not None
        return config.batch_size if whole else self.chunk_size(config.batch_size)

    def chunk_size(self, size: int) -> int:
        """The best number of examples to process at once, out of ``size``; a divisor of it."""
        if self.placement is not None and not self.placement.single:
            return size
        return microbatch.automatic_size(size, math.prod(self.input_shape()))

    @property
    def devices(self) -> int:
        """The number of devices it runs on."""
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
        """The compiled training steps, see :func:`stn_jax.training.step.make_train_steps`."""
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
        """Distributes a restored state over the run's devices."""
        if self.placement is None or self.placement.single:
            return state
        return self.placement.put(state, self.placement.state())

    def fetch(self, tree: Any) -> Any:
        """Gathers the run's arrays on the host, in every process."""
        return tree if self.placement is None else self.placement.fetch(tree)

    def empty_metrics(self) -> Metrics:
        """Metrics over no steps."""
        return self.replicate(Metrics.empty(self.model, len(self.config.seeds)))

    def replicate(self, tree: Any) -> Any:
        """Copies arrays that every process holds to every device of the run."""
        return (
            tree if self.placement is None else self.placement.put(tree, self.placement.replicated)
        )

    def on_single_device(self) -> "Run":
        """This run on one device in every process. A collective: every process must call it."""
        return dataclasses.replace(self, data=self.fetch(self.data), placement=None)

    def apply(self, params: Any, images: jax.Array) -> tuple[jax.Array, Intermediates]:
        """Logits and intermediates of one seed's network in evaluation, for normalized images."""
        result: Any = self.model.apply({"params": params}, images, return_details=True)
        return result

    def apply_and_observe(
        self, params: Any, images: jax.Array
    ) -> tuple[jax.Array, Intermediates, dict[str, jax.Array]]:
        """:meth:`apply`, and which ReLUs are active for any of the images, by layer."""
        variables = {"params": params}
        result, active = apply_and_observe(self.model, variables, images, return_details=True)
        return *result, active

    def poses(self, details: Intermediates) -> jax.Array | None:
        """The transformers' transforms as affine matrices ``[B, T, 2, 3]``; None without any.

        They are in the image's coordinates (``align_corners=False``), whichever array was warped;
        of transformers in sequence, in those of the image as its predecessors have aligned it.
        Transforms that are not affine are approximated, see
        :meth:`stn_jax.warp.transforms.Transform.as_affine`.
        """
        if details.theta is None or self.model.transformer is None:
            return None
        family = self.model.transformer.family()
        pairs = zip(details.thetas, self._frames, strict=True)
        return jnp.stack(
            [conjugate(family.as_affine(theta), affine.invert(frame)) for theta, frame in pairs], 1
        )

    def pose(self, details: Intermediates) -> jax.Array | None:
        """The first transformer's :meth:`poses`, ``[B, 2, 3]``."""
        poses = self.poses(details)
        return None if poses is None else poses[:, 0]

    @functools.cached_property
    def _frames(self) -> list[np.ndarray]:
        return transformer_frames(self.model, self.input_shape())

    @property
    def transformer_names(self) -> list[str]:
        """The transformers' names, in their order: "c0", ..."""
        return transformer_names(self.config.variant)

    def denormalize(self, images: jax.Array) -> np.ndarray:
        """Inverts the normalization of network inputs: ``[B, H, W, C]`` in [0, 1]."""
        return np.clip(np.asarray(images * self.data.deviation + self.data.mean), 0, 1)

    def aligned(self, inputs: jax.Array, details: Intermediates) -> np.ndarray:
        """The first of the :meth:`views`; without a transformer, the input itself."""
        return next(iter(self.views(inputs, details).values()), self.denormalize(inputs))

    def views(self, inputs: jax.Array, details: Intermediates) -> dict[str, np.ndarray]:
        """The input warped by each transformer, for display: ``[B, H', W', C]`` in [0, 1], by name.

        If a transformer warps a feature map, its transform is applied to the input, as its
        predecessors have warped it. What follows transformers in parallel continues each of their
        views ("c1 of c0, 1 of 2").
        """
        names, thetas = iter(self.transformer_names), iter(details.thetas)
        found: dict[str, jax.Array] = {}
        sources = {"": inputs}
        for group in self.model.placements():
            views = {}
            for transformer, warp_depth, _ in group:
                alignment = transformer.alignment()
                if warp_depth:
                    alignment = dataclasses.replace(alignment, shape=None, downsample=1)
                name, theta = next(names), next(thetas)
                for source, image in sources.items():
                    of = f"{name} of {source}" if len(sources) > 1 else name
                    views[of] = alignment.warp(image, theta)
            found |= views
            sources = views
        return {name: self.denormalize(view) for name, view in found.items()}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the data set's images: not yet distorted or cropped."""
        images = self.data.images[:1]
        if self.task.draw is not None:
            keys = jnp.stack([jax.random.key(0)])
            images = jax.eval_shape(self.task.draw, keys, images)
        _, height, width, channels = images.shape
        return height, width, channels

    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return self.task.input_shape(self.data.images)


def description(run: Run) -> dict[str, Any]:
    """What is needed of a run's data to use its networks without them, ready for JSON.

    A collective: every process must call it.
    """
    mean, deviation = run.fetch((run.data.mean, run.data.deviation))
    names = run.task.class_names
    return {
        "model": model_options(run.config, run.model.head.classes, run.input_shape()),
        "image_shape": list(run.image_shape),
        "input_shape": list(run.input_shape()),
        "mean": np.asarray(mean).tolist(),
        "deviation": np.asarray(deviation).tolist(),
        **({} if names is None else {"class_names": list(names)}),
    }


def model_options(
    config: Config, classes: int, input_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The options of create_model for a configuration and images of a shape, ready for JSON.

    Weights of earlier versions store crop_fraction as "window".
    """
    classifier = config.classifier or (fitting(input_shape) if config.any_data else "")
    return {
        **({"aspect": config.aspect} if config.aspect not in (0, 1) else {}),
        **({"deterministic": True} if config.deterministic else {}),
        **({"classifier": classifier} if classifier else {}),
        **({"blocks": [list(block) for block in config.blocks]} if config.blocks else {}),
        "recipe": config.recipe,
        "classes": classes,
        "width": config.width,
        "dropout": config.dropout,
        "iterations": config.iterations,
        "crop_fraction": config.window,
        "transform": config.transform,
        "padding_mode": config.padding_mode or None,
        "align_corners": config.align_corners,
        "dtype": "bfloat16" if config.compute_dtype == "bfloat16" else None,
    }
