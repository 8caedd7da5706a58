"""The configuration of a run: its fields, and how they are checked, read and compared."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from stn_jax.data.distortions import AffineRanges
from stn_jax.data.options import DataOptions
from stn_jax.data.tasks import TASKS
from stn_jax.models import create_model
from stn_jax.models.networks import RECIPES
from stn_jax.models.recipes import ANY_DATA
from stn_jax.models.variants import Variant
from stn_jax.training.config_checks import (
    CHOICES,
    MAX_COUNT,
    RANGES,
    ConfigError,
    check_choices,
    check_combinations,
    check_ranges,
    coerce,
    mesh_axes,
    parse_size,
)

__all__ = ["MAX_COUNT", "Config", "ConfigError", "mesh_axes"]


@dataclasses.dataclass(frozen=True)
class Config:
    """A run's settings. Defaults: the study's networks on a short, modern schedule.

    Attributes:
      task: rotated_mnist, translated_mnist, scaled_mnist, svhn (whole house numbers; an image is
        correct only if all its digits are) or svhn_cropped (single digits); for any data plain (as
        it is), or at its own size rotated, translated, scaled or affine (all this, and sheared).
      variant: cnn, stn-cX, stn-slX or stn-dlX, with a depth X from 0 to 2 (svhn: to 8).
      recipe: published, the networks and distortions of the authors' code; or legacy, those of
        earlier versions of this package on scaled_mnist and, for stn-c0, on svhn and svhn_cropped:
        see create_model and stn_jax.data.tasks. Stored configurations without a recipe are read
        as legacy. Where the two are identical it is published.
      dataset: mnist_sample (comes with the package); mnist_rot, the splits of MNIST-rot;
        folder:PATH, with a subfolder of images for each class, or train and test with these;
        npz:FILE, with arrays images and labels; or the name of a TFDS image-classification data
        set: mnist, fashion_mnist, kmnist, svhn_cropped, ...; for task svhn svhn_numbers.
      image_size: height and width of the images of a folder or of TFDS, as 48x64 or 64 for both:
        they are resized, with padding. "": their own, or in a folder of several sizes the median.
      channels: of these images: 1 gray, 3 color, 2 and 4 with alpha; 0: as the files are.
      test_fraction: fraction of each class that becomes the test split of a set without one.
      split_seed: seed of the draw of that split.
      skip_unreadable: whether to leave out image files that cannot be read, instead of an error.
      max_data_gb: bound on the decoded images, in GB; 0: three quarters of the devices' memory, or
        of the machine's on CPU.
      max_angle, max_translation, min_scale, max_scale, max_shear: of the tasks for any data, and
        max_angle of rotated_mnist; degrees (180: the full circle), fractions of width and height,
        factors, pixels along x for each along y.
      data_dir: TFDS's folder of prepared data; "" for its default.
      manual_dir: folder with the data set's original files, so that nothing is downloaded.
      cache_dir: folder of the decoded arrays; "" for the default.
      seeds: one network is trained for each seed, all in one program.
      epochs, batch_size: an epoch drops the examples that do not fill its last batch.
      microbatch: examples per microbatch; gradients are accumulated over a batch's microbatches,
        which needs the memory of one and changes only rounding. 0: the whole batch, but on a
        single CPU without theta_clip fewer (64 of 28x28 pixels, 32 of larger images), which is
        faster there. With theta_clip and several microbatches, each iteration of the transformer
        costs another forward and half a backward pass.
      holdout: this many training examples, the last ones, are held out of training and evaluated
        in place of the test set, for choosing settings.
      init_from: a run's folder, or the name of pretrained weights (rotated_mnist/stn-sl1), from
        which layers of the same name and shapes are taken at the start; "": none.
      learning_rate: the schedule's peak; 0: chosen for batch_size and the number of steps, 0.2 for
        batches of 256 and long runs.
      localization_rate: the localization network's learning rate, as a multiple of learning_rate.
      localization_optimizer: adam, or sgd as for all other parameters, which needs many more
        epochs (and a higher localization_rate) to learn to align.
      localization_decay: under schedule one_cycle, final fraction of the steps over which Adam's
        rate falls to a hundredth.
      schedule: one_cycle (rises, then falls along a cosine), step (falls to a tenth several times,
        at equal intervals) or constant.
      step_drops: number of drops of schedule step; the paper has 2 on MNIST, after each third.
      warmup: fraction of the steps during which one_cycle rises.
      momentum: Nesterov momentum of SGD.
      label_smoothing: fraction of the target's probability that is spread evenly over all classes.
        Better alignment then lowers the loss even once all digits are classified correctly.
      weight_decay: L2 penalty on kernels.
      clip_norm: gradients with a larger global norm are scaled down to it; 0 turns it off.
      iterations: number of iterations of the transformer.
      window: central fraction of each side that the untrained transformer shows (crop_fraction of
        SpatialTransformer): 1, everything, in the paper; 0.5 keeps the resolution where the
        warped array's sides are half the input's (translated_mnist).
      transform: family of transforms: rotation, translation, attention (scale and shift),
        similarity, affine, projective or tps (a thin-plate spline; only with iterations=1).
      aspect: of rotation and similarity, see create_model; 0: that of the images, so that angles
        are kept in oblong ones. Stored configurations without it are read as 1, for square images.
      theta_clip: gradient clipping by ratio: an image's gradient with respect to its transform is
        scaled down to this many times the mean norm over the batch, so that a few images do not
        dominate; 0 turns it off.
      align_corners, padding_mode: of the warp; padding_mode "" is the task's own.
      deterministic: whether the gradients of warps have the same bits every time on a GPU, which
        takes more time, see grid_sample.
      crop: for svhn and svhn_cropped, side of the random crops used in training (54 of 64 in the
        literature); evaluation uses the central crop. 0: whole images.
      classifier: small, mnist, svhn or residual, see create_model; "": the task's own, for any
        data by the size of the images (below 24 pixels a side small, below 48 mnist).
      blocks: a classifier by its blocks, as [(5,32,1),(3,64,1)]: kernel size, features, and whether
        to pool by 2; (): by classifier.
      width: factor on the classifier's channels.
      dropout: factor on the dropout rates of SVHN's networks; MNIST's have no dropout.
      compute_dtype: float32 or bfloat16; parameters and thetas are always float32.
      mesh: how devices divide the work: batch (each takes part of every batch), seeds (each takes
        some of the networks), or numbers of devices, such as batch=4 or seeds=2,batch=4.
      steps_per_dispatch: training steps per call of the compiled program.
      log_every: steps between lines of metrics.jsonl.
      checkpoint_every: epochs between checkpoints; 0 writes none.
      keep_checkpoints: number of recent checkpoints to keep.
      keep_best: whether to also keep the state with the lowest error measured by eval_every, in
        the workdir's folder best; needs holdout, so that test images do not choose it.
      eval_every: epochs between evaluations during training, one pass over the evaluation set
        each; 0: none.
      profile: steps to trace for XProf or Perfetto, as FIRST:LAST, such as 20:25; "": none. The
        trace is written to the workdir's folder profile.
      test_passes: passes over the test set, each with new distortions.
      test_batch_size: examples per evaluation call; does not change results. On a single CPU
        smaller batches are used, as in training.
      figures: whether to draw the gallery and the angle plot at the end.
      tensorboard: whether to write TensorBoard files too.
    """

    task: str = "rotated_mnist"
    variant: str = "stn-sl1"
    recipe: str = "published"
    dataset: str = "mnist"
    image_size: str = ""
    channels: int = 0
    test_fraction: float = 0.2
    split_seed: int = 0
    skip_unreadable: bool = False
    max_data_gb: float = 0.0
    max_angle: float = 90.0
    max_translation: float = 0.25
    min_scale: float = 0.5
    max_scale: float = 2.0
    max_shear: float = 0.2
    data_dir: str = ""
    manual_dir: str = ""
    cache_dir: str = ""
    seeds: tuple[int, ...] = (0,)
    epochs: int = 20
    batch_size: int = 256
    microbatch: int = 0
    holdout: int = 0
    init_from: str = ""
    learning_rate: float = 0.0
    localization_rate: float = 0.015
    localization_optimizer: str = "adam"
    localization_decay: float = 0.2
    schedule: str = "one_cycle"
    step_drops: int = 2
    warmup: float = 0.5
    momentum: float = 0.9
    label_smoothing: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    iterations: int = 1
    window: float = 1.0
    transform: str = "affine"
    aspect: float = 0.0
    theta_clip: float = 0.0
    align_corners: bool = True
    padding_mode: str = ""
    deterministic: bool = False
    crop: int = 0
    classifier: str = ""
    blocks: tuple[tuple[int, int, int], ...] = ()
    width: float = 1.0
    dropout: float = 1.0
    compute_dtype: str = "float32"
    mesh: str = "batch"
    steps_per_dispatch: int = 50
    log_every: int = 50
    checkpoint_every: int = 1
    keep_checkpoints: int = 2
    keep_best: bool = False
    eval_every: int = 0
    profile: str = ""
    test_passes: int = 10
    test_batch_size: int = 500
    figures: bool = True
    tensorboard: bool = False

    # Fields that name folders of one machine; results do not repeat them.
    FOLDER_FIELDS = ("data_dir", "manual_dir", "cache_dir")
    # Fields that only the evaluation reads.
    EVALUATION_FIELDS = ("test_passes", "test_batch_size", "figures")
    # Fields whose 0 is replaced by a number once the data is known.
    AUTOMATIC_FIELDS = ("learning_rate", "aspect")
    # Fields that may differ when a run is resumed: they do not affect the training.
    RUNTIME_FIELDS = frozenset(
        [
            *FOLDER_FIELDS,
            *EVALUATION_FIELDS,
            *("mesh", "steps_per_dispatch", "log_every", "checkpoint_every", "tensorboard"),
            *("keep_checkpoints", "keep_best", "eval_every", "profile", "max_data_gb"),
        ]
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, coerce(field, getattr(self, field.name)))
        check_choices(self, {"task": tuple(TASKS), "recipe": RECIPES, **CHOICES})
        check_ranges(self, RANGES)
        mesh_axes(self.mesh)
        check_combinations(self)
        self._check_model()
        if not self.recipe_matters:
            object.__setattr__(self, "recipe", "published")
        if not self.aspect_matters:
            object.__setattr__(self, "aspect", 0.0)

    def _check_model(self) -> None:
        """Raises ConfigError if there is no such network."""
        try:
            create_model(
                self.task,
                self.variant,
                recipe=self.recipe,
                iterations=self.iterations,
                crop_fraction=self.window,
                transform=self.transform,
                classifier=self.classifier or ("svhn" if self.any_data else None),
                blocks=self.blocks,
            )
        except ValueError as error:
            # By the field's name in this class.
            raise ConfigError(str(error).replace("crop_fraction", "window")) from None

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str = "the configuration") -> "Config":
        """Makes a Config of a dict. Raises ConfigError for unknown fields or invalid values."""
        if not isinstance(values, dict):
            raise ConfigError(f"{origin} holds {values!r:.60}; expected fields and their values")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ConfigError(
                f"{origin} has unknown fields: {', '.join(sorted(map(str, unknown)))}"
            )
        return cls(**values)

    @classmethod
    def from_stored(cls, values: Any, origin: str = "the configuration") -> "Config":
        """:meth:`from_dict` for a stored configuration, with earlier defaults of missing fields."""
        earlier = {"recipe": "legacy", "learning_rate": 0.2, "aspect": 1.0}
        known = {**earlier, **values} if isinstance(values, dict) else values
        return cls.from_dict(known, origin)

    @property
    def any_data(self) -> bool:
        """Whether the task is one for any data."""
        return self.task in ANY_DATA

    @property
    def evaluated_on(self) -> str:
        """What the network is evaluated on, in words."""
        return "held-out training examples" if self.holdout else "test set"

    @property
    def ranges(self) -> AffineRanges:
        """The ranges of the distortions for any data."""
        scale = (self.min_scale, self.max_scale)
        return AffineRanges(self.max_angle, self.max_translation, scale, self.max_shear)

    @property
    def data_options(self) -> DataOptions:
        """How the data set's images are brought to one form, and split."""
        return DataOptions(
            image_size=parse_size(self.image_size),
            channels=self.channels,
            test_fraction=self.test_fraction,
            split_seed=self.split_seed,
            skip_unreadable=self.skip_unreadable,
            max_bytes=round(self.max_data_gb * 1e9) or None,
        )

    @property
    def recipe_matters(self) -> bool:
        """Whether the recipes differ in this task's images or this variant's network."""
        parts = Variant.parse_all(self.variant)
        at_input = any(part.kind is not None and part.depth == 0 for part in parts)
        return self.task == "scaled_mnist" or (self.task.startswith("svhn") and at_input)

    @property
    def aspect_matters(self) -> bool:
        """Whether the network depends on the aspect; MNIST's tasks have square images."""
        square = TASKS[self.task].mnist_statistics is not None
        return self.transform in ("rotation", "similarity") and not square

    @classmethod
    def load(cls, workdir: str | Path) -> "Config":
        """Reads a workdir's config.json. Raises ConfigError if it is missing or damaged."""
        path = Path(workdir) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path} does not exist; expected the folder of a training run: "
                "python train.py --workdir=... makes one"
            ) from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from None
        return cls.from_stored(values, str(path))

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON and for ml_collections."""
        return dataclasses.asdict(self)

    def to_json(self) -> dict[str, Any]:
        """:meth:`to_dict` as JSON gives it back, without the folders of this machine."""
        fields = json.loads(json.dumps(self.to_dict()))
        return {name: value for name, value in fields.items() if name not in self.FOLDER_FIELDS}

    def differences(self, other: "Config", ignored: Collection[str] = RUNTIME_FIELDS) -> list[str]:
        """The fields that differ: ["epochs: 4 against 8", ...].

        Args:
          other: another configuration.
          ignored: fields to skip; by default those that do not affect the training.
        """
        mine, others = self.to_dict(), other.to_dict()
        return [
            f"{name}: {mine[name]} against {others[name]}"
            for name in mine
            if name not in ignored and mine[name] != others[name]
        ]

    def with_evaluation_of(self, other: "Config") -> "Config":
        """This configuration with the evaluation settings and data folders of another."""
        names = (*self.EVALUATION_FIELDS, *self.FOLDER_FIELDS)
        return dataclasses.replace(self, **{name: getattr(other, name) for name in names})
