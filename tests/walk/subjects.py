"""Every public function and module, as a function of arrays that lead with a batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import stn_jax
from stn_jax import augment, warp
from stn_jax.warp import affine, normalized_to_pixel, pixel_to_normalized, transforms

BATCH = 4


class Subject(NamedTuple):
    """A function and what it is tried with.

    Attributes:
      call: function of arrays to an array or a tree of arrays.
      args: each leads with the batch, or (see shared) serves all of it.
      covers: the public names that it calls.
      shared: for each argument that may also come without the batch axis: where it stands.
      symbolic: the shapes of the arguments with letters for what an export leaves open.
      ways: those that it is tried in; () for all. What a network does beyond its layers' own doings
        shows in few, and each takes seconds to compile.
      stacks_constants: whether it builds matrices of entries some of which are constants.
    """

    call: Callable[..., Any]
    args: tuple[np.ndarray, ...]
    covers: tuple[str, ...]
    shared: tuple[int, ...] = ()
    symbolic: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    stacks_constants: bool = False

    def is_tried(self, way: str) -> bool:
        return not self.ways or way in self.ways


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


IMAGE, VOLUME = random(BATCH, 6, 5, 3, seed=1), random(BATCH, 3, 4, 5, 2, seed=2)
# Away from the identity, where every position is a whole pixel up to rounding and slopes jump.
THETA = np.float32(np.eye(2, 3) * 0.83 + random(BATCH, 2, 3, seed=3) / 4)
THETA_3D = np.float32(np.eye(3, 4) * 0.83 + random(BATCH, 3, 4, seed=4) / 4)
GRID = 1.3 * random(BATCH, 4, 3, 2, seed=5)
# Away from whole pixels by 0.1 at least.
POSITIONS = np.float32(random(BATCH, 4, 3, 2, seed=9) * 0.4 + np.arange(-1, 2)[:, None] + 1.5)
FLOWS = np.float32(random(BATCH, 6, 5, 2, seed=10) * 0.4 + 0.5)
PIXELS = np.float32(np.eye(2, 3) + random(BATCH, 2, 3, seed=11) / 4)
HOMOGRAPHIES = np.float32(np.eye(3) + random(BATCH, 3, 3, seed=12) * [[0.2], [0.2], [0.01]])
BOXES = np.float32([0.7, 1.2, 3.9, 5.1]) + random(BATCH, 2, 4, seed=13) / 2
COORDINATES = np.float32(random(BATCH, 2, 7, seed=14) * 0.4 + np.arange(7) % 4 + 0.5)
TURN = np.float32([0.02, -0.3, 0.1, 0.3, 0.03, -0.1])
FEW = ("jit", "disable_jit", "strict", "exported", "auto_mesh")
MORE = (*FEW, "vmap", "derivatives", "remat", "explicit_mesh", "shard_map")
DIGITS = random(BATCH, 28, 28, 1, seed=6)


def matrices(theta, angle):
    """All of stn_jax.warp.affine, on thetas ``[..., 2, 3]`` and angles ``[...]`` in degrees."""
    pair = theta[..., 2]
    built = [
        affine.rotation(angle, aspect=1.5),
        affine.translation(pair),
        affine.scaling(pair),
        affine.shearing(angle),
        affine.from_parameters(angle, 1 + pair, angle / 90, pair),
        affine.compose(theta, affine.identity(), theta),
        affine.invert(theta),
    ]
    read = [affine.angle(theta), affine.scale(theta), affine.shift(theta), affine.shear(theta)]
    return built, read, affine.decompose(theta)


def families(*params):
    """All families: their theta, its composition with itself, its nearest affine, its grid."""
    found = []
    for name, some in zip(transforms.FAMILIES, params, strict=True):
        family = transforms.resolve(name)
        theta = family.theta(some)
        composed = family.compose(theta, theta) if family.composable else family.compose(theta)
        found.append((composed, family.as_affine(theta), family.grid(some, (3, 4))))
    return found


def coordinates(x):
    return normalized_to_pixel(x, 5), pixel_to_normalized(x, 5, align_corners=True)


def sampled(**options):
    return functools.partial(stn_jax.grid_sample, **options)


def converted(matrix):
    theta = warp.pixel_matrix_to_theta(matrix, (6, 5), (4, 3))
    return theta, warp.theta_to_pixel_matrix(theta, (6, 5), (4, 3), align_corners=True)


def bytes_warped(image, positions):
    """Cast back, so that all results are numbers that losses take; its gradient is 0."""
    photo = jnp.clip(128 + 100 * image, 0, 255).astype(jnp.uint8)
    return stn_jax.on_uint8(stn_jax.remap)(photo, positions).astype(image.dtype)


def occluded(flow, back):
    return stn_jax.occlusion_mask(flow, back).astype(flow.dtype)


def interpolated(order, mode):
    def one(x, where):
        return stn_jax.map_coordinates(x, where, order, mode=mode)

    return jax.vmap(one)


def attended(first, second, locations, weights):
    return stn_jax.multi_scale_deformable_attention([first, second], locations, weights)


def augmented(image, keypoints):
    """A chain of all families, with what was drawn."""
    keys = jax.random.split(jax.random.key(0), 4)
    targets = augment.Targets(image, keypoints=keypoints)
    targets, theta = augment.random_affine(keys[0], targets, angle=20, shift=0.1)
    targets, homography = augment.random_perspective(keys[1], targets, distortion=0.2)
    targets, field = augment.random_elastic(keys[2], targets, magnitude=0.3, smoothness=2.0)
    targets, start = augment.random_crop(keys[3], targets, (4, 4))
    drawn = (theta, homography, field, start.astype(image.dtype))
    return targets.image, targets.keypoints, drawn


class Module:
    """A Flax module with parameters that make it warp, as a function of images."""

    def __init__(self, module: nn.Module, images: np.ndarray):
        self.module = module
        with jax.ensure_compile_time_eval():
            variables = module.init(jax.random.key(0), jnp.asarray(images[:1]))
            self.variables = jax.tree.map(lambda x: np.asarray(x), variables)

        def turned(path, x):
            last = [getattr(key, "key", "") for key in path[-2:]]
            return (
                x + np.float32([0.02, -0.3, 0.1, 0.3, 0.03, -0.1])
                if last == ["theta", "bias"]
                else x
            )

        self.variables = jax.tree_util.tree_map_with_path(turned, self.variables)

    def __call__(self, images):
        return self.module.apply(self.variables, images)


@functools.cache
def network(variant: str) -> Module:
    model = stn_jax.create_model("rotated_mnist", variant, width=1 / 16)
    return Module(model, DIGITS)


@functools.cache
def transformer() -> Module:
    look = nn.Sequential(
        [lambda x: x.reshape(x.shape[0], x.size // x.shape[0]), nn.Dense(8), nn.relu]
    )
    return Module(stn_jax.SpatialTransformer(look, shape=(4, 5)), IMAGE)


@functools.cache
def trained() -> Module:
    with jax.ensure_compile_time_eval():
        model, variables = stn_jax.load_pretrained("rotated_mnist/stn-c0")[:2]
    module = Module.__new__(Module)
    module.module, module.variables = model, jax.tree.map(np.asarray, variables)
    return module


def lazily(make: Callable[..., Module], *args: Any) -> Callable[..., Any]:
    return lambda images: make(*args)(images)


def operations() -> dict[str, Subject]:
    """What stands over the sampler."""
    short = (*FEW, "vmap")
    values = random(BATCH, 4, 5, 2, 3, seed=15), random(BATCH, 2, 3, 2, 3, seed=16)
    locations = 0.5 + 0.4 * random(BATCH, 5, 2, 2, 3, 2, seed=17)
    return {
        "pixel matrices": Subject(
            converted,
            (PIXELS,),
            ("warp.pixel_matrix_to_theta", "warp.theta_to_pixel_matrix"),
            ways=short,
        ),
        "warp_affine": Subject(
            functools.partial(stn_jax.warp_affine, shape=(4, 3), fill=0.5),
            (IMAGE, PIXELS),
            ("warp_affine",),
            (0, 1),
            ways=MORE,
        ),
        "warp_affine, antialias": Subject(
            functools.partial(stn_jax.warp_affine, shape=(4, 3), antialias=True),
            (IMAGE, PIXELS),
            ("warp_affine",),
            ways=(*FEW, "vmap", "explicit_mesh", "shard_map"),
        ),
        "warp_perspective": Subject(
            functools.partial(stn_jax.warp_perspective, shape=(4, 3)),
            (IMAGE, HOMOGRAPHIES),
            ("warp_perspective",),
            (0, 1),
            ways=MORE,
        ),
        "remap": Subject(
            functools.partial(stn_jax.remap, fill=np.float32([0.1, 0.2, 0.3])),
            (IMAGE, POSITIONS),
            ("remap",),
            (0, 1),
            symbolic=("b, h, w, 3", "b, n, 3, 2"),
            ways=MORE,
        ),
        "flow_warp": Subject(stn_jax.flow_warp, (IMAGE, FLOWS), ("flow_warp",), (0, 1), ways=MORE),
        # Gradients that are 0 whatever comes are laid out anyhow.
        "occlusion_mask": Subject(
            occluded, (FLOWS, -FLOWS), ("occlusion_mask",), ways=("jit", "strict", "vmap")
        ),
        "on_uint8": Subject(
            bytes_warped, (IMAGE, POSITIONS), ("on_uint8",), ways=("jit", "strict", "vmap")
        ),
        "crop_and_resize": Subject(
            functools.partial(stn_jax.crop_and_resize, shape=(4, 3)),
            (IMAGE, BOXES),
            ("crop_and_resize",),
            (0, 1),
            ways=MORE,
        ),
        **{
            f"roi_align, sampling_ratio={ratio}": Subject(
                functools.partial(stn_jax.roi_align, shape=(2, 2), sampling_ratio=ratio),
                (IMAGE, BOXES),
                ("roi_align",),
                (0, 1),
                ways=MORE,
            )
            for ratio in (-1, 2)
        },
        "map_coordinates": Subject(
            interpolated(3, "mirror"),
            (IMAGE[..., 0], COORDINATES),
            ("map_coordinates",),
            ways=(*FEW, "vmap", "derivatives", "explicit_mesh", "shard_map"),
        ),
        "map_coordinates, order 1": Subject(
            interpolated(1, "constant"),
            (IMAGE[..., 0], COORDINATES),
            ("map_coordinates",),
            ways=(*FEW, "derivatives"),
        ),
        "spline_filter": Subject(
            jax.vmap(stn_jax.spline_filter),
            (IMAGE[..., 0],),
            ("spline_filter",),
            ways=(*FEW, "vmap", "derivatives", "explicit_mesh", "shard_map"),
        ),
        "multi_scale_deformable_attention": Subject(
            attended,
            (*values, locations, random(BATCH, 5, 2, 2, 3, seed=18)),
            ("multi_scale_deformable_attention",),
            ways=MORE,
        ),
        "augment": Subject(
            augmented,
            (IMAGE, 1 + 3 * np.abs(random(BATCH, 2, 2, seed=19))),
            (),
            ways=(*FEW, "vmap"),
        ),
    }


def subjects() -> dict[str, Subject]:
    """All of them, by name."""
    of_families = [
        0.3 * random(BATCH, transforms.resolve(f).size, seed=7) for f in transforms.FAMILIES
    ]
    digits = ("b, 28, 28, 1",)
    return {
        "matrices": Subject(
            matrices,
            (THETA, 40 * random(BATCH, seed=8)),
            tuple(f"warp.affine.{name}" for name in AFFINE),
            stacks_constants=True,
        ),
        "families": Subject(
            families,
            tuple(of_families),
            ("warp.transforms.resolve", *(f"warp.transforms.{t.__name__}" for t in FAMILIES)),
            stacks_constants=True,
        ),
        "coordinates": Subject(
            coordinates, (THETA,), ("warp.normalized_to_pixel", "warp.pixel_to_normalized")
        ),
        "affine_grid": Subject(
            lambda theta: stn_jax.affine_grid(theta, (3, 4)),
            (THETA,),
            ("affine_grid",),
            symbolic=("b, 2, 3",),
        ),
        "grid_sample": Subject(
            stn_jax.grid_sample,
            (IMAGE, GRID),
            ("grid_sample",),
            (0, 1),
            symbolic=("b, h, w, 3", "b, n, 3, 2"),
        ),
        "grid_sample, bicubic": Subject(
            sampled(mode="bicubic", padding_mode="reflection"),
            (IMAGE, GRID),
            ("grid_sample",),
            symbolic=("b, h, w, 3", "b, n, 3, 2"),
        ),
        "grid_sample, nearest": Subject(
            sampled(mode="nearest", padding_mode="border", align_corners=True),
            (IMAGE, GRID),
            ("grid_sample",),
            symbolic=("b, h, w, 3", "b, n, 3, 2"),
        ),
        "affine_transform": Subject(
            stn_jax.affine_transform,
            (IMAGE, THETA),
            ("affine_transform",),
            (0, 1),
            symbolic=("b, h, w, 3", "b, 2, 3"),
        ),
        "affine_transform, volumes": Subject(
            functools.partial(stn_jax.affine_transform, shape=(2, 3, 4)),
            (VOLUME, THETA_3D),
            ("affine_transform",),
            (0, 1),
            symbolic=("b, d, h, w, 2", "b, 3, 4"),
        ),
        **operations(),
        "SpatialTransformer": Subject(
            lazily(transformer),
            (IMAGE,),
            ("SpatialTransformer",),
            symbolic=("b, 6, 5, 3",),
        ),
        **{
            variant: Subject(
                lazily(network, variant),
                (DIGITS,),
                ("create_model",),
                symbolic=digits,
                ways=MORE if variant == "stn-sl1" else (*FEW, "explicit_mesh", "shard_map"),
            )
            for variant in ("cnn", "stn-c0", "stn-c1", "stn-sl1")
        },
        "load_pretrained": Subject(
            lazily(trained), (DIGITS,), ("load_pretrained",), symbolic=digits, ways=FEW
        ),
    }


FAMILIES = tuple(transforms.FAMILIES.values())
AFFINE = (
    *("identity", "rotation", "translation", "scaling", "shearing", "from_parameters", "compose"),
    *("invert", "angle", "scale", "shift", "shear", "decompose"),
)
