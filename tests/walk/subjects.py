"""Every public function and module, as a function of arrays that lead with a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from operation_subjects import operations
from subject import (
    BATCH,
    DIGITS,
    FEW,
    GRID,
    IMAGE,
    MORE,
    THETA,
    THETA_3D,
    VOLUME,
    Subject,
    random,
)

import stn_jax
import stn_jax.nnx
from stn_jax.models import Classifier
from stn_jax.warp import affine, normalized_to_pixel, pixel_to_normalized, transforms


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
        family = transforms.resolve(transforms.of_aspect(name, 1.5))
        theta = family.theta(some)
        composed = family.compose(theta, theta) if family.composable else family.compose(theta)
        found.append((composed, family.as_affine(theta), family.grid(some, (3, 4))))
    return found


def coordinates(x):
    return normalized_to_pixel(x, 5), pixel_to_normalized(x, 5, align_corners=True)


def sampled(**options):
    return functools.partial(stn_jax.grid_sample, **options)


class Module:
    """A Flax module with parameters that make it warp, as a function of images."""

    def __init__(self, module: nn.Module, images: np.ndarray):
        self.module = module
        with jax.ensure_compile_time_eval():
            variables = jax.jit(module.init)(jax.random.key(0), jnp.asarray(images[:1]))
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
def own_network() -> Module:
    blocks = [nn.Sequential([nn.Conv(4, (3, 3), 2), nn.relu]) for _ in range(2)]
    head = nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(10)])
    network = stn_jax.create_network(Classifier(blocks, head), "stn-sl1")
    return Module(network, DIGITS)


@functools.cache
def nnx_transformer() -> Callable[..., Any]:
    with jax.ensure_compile_time_eval():
        rngs = nnx.Rngs(0)
        localization = nnx.Sequential(
            lambda x: x.reshape(x.shape[0], x.size // x.shape[0]),
            nnx.Linear(IMAGE[0].size, 8, rngs=rngs),
            nnx.relu,
        )
        module = stn_jax.nnx.SpatialTransformer(localization, 8, shape=(4, 5), rngs=rngs)
        module.theta.kernel[...] = 0.1 * jax.random.normal(rngs(), (8, 6))
        definition, state = nnx.split(module)
        state = jax.tree.map(np.asarray, state)
    return lambda images: nnx.merge(definition, state)(images)


@functools.cache
def trained() -> Module:
    with jax.ensure_compile_time_eval():
        model, variables = stn_jax.load_pretrained("rotated_mnist/stn-c0")[:2]
    module = Module.__new__(Module)
    module.module, module.variables = model, jax.tree.map(np.asarray, variables)
    return module


def lazily(make: Callable[..., Module], *args: Any) -> Callable[..., Any]:
    return lambda images: make(*args)(images)


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
            (
                "warp.transforms.resolve",
                "warp.transforms.of_aspect",
                *(f"warp.transforms.{t.__name__}" for t in FAMILIES),
            ),
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
        "nnx.SpatialTransformer": Subject(
            lazily(nnx_transformer), (IMAGE,), (), symbolic=("b, 6, 5, 3",)
        ),
        "create_network": Subject(
            lazily(own_network), (DIGITS,), ("create_network",), symbolic=digits, ways=FEW
        ),
        **{
            variant: Subject(
                lazily(network, variant),
                (DIGITS,),
                ("create_model", "load_run"),  # a run's network is one of these
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
