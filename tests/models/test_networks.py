"""The study's networks: their sizes, what they share, and where they start."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import affine_transform, create_model
from stn_jax.models import DenseLocalization, Head, Variant
from stn_jax.warp import affine

SIDES = {
    "rotated_mnist": 28,
    "translated_mnist": 60,
    "scaled_mnist": 112,
    "svhn": 64,
    "svhn_cropped": 32,
}


def images_for(task: str, batch: int = 3) -> jax.Array:
    channels = 3 if task.startswith("svhn") else 1
    return jax.random.normal(jax.random.key(7), (batch, SIDES[task], SIDES[task], channels))


def init(task: str, variant: str, **options):
    model, images = create_model(task, variant, **options), images_for(task)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


def output_shape(task: str, variant: str, **options) -> tuple[int, ...]:
    model = create_model(task, variant, **options)
    logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images_for(task))
    return logits.shape


def details_of(model, variables, images):
    return jax.jit(partial(model.apply, return_details=True))(variables, images)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("task", "variant", "total"),
    [
        ("rotated_mnist", "cnn", 208_586),
        # The localization network: three dense layers of 32, and the layer to theta.
        ("rotated_mnist", "stn-c0", 208_586 + 784 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 6 + 6),
        ("rotated_mnist", "stn-sl1", 208_586 + 6400 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 6 + 6),
        ("rotated_mnist", "stn-c1", 208_586 + 6400 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 6 + 6),
        # A copy of the first block on top of stn-sl1.
        (
            "rotated_mnist",
            "stn-dl1",
            208_586 + 81 * 64 + 64 + 6400 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 6 + 6,
        ),
        # The map before the last layer is 10x10 in place of 2x2.
        ("translated_mnist", "cnn", 208_586 + 96 * 64 * 10),
        # Convolutions on 60x60: 56, 28, 24, 12; dense to 20; the classifier works on 30x30.
        (
            "translated_mnist",
            "stn-c0",
            208_586 + 25 * 20 + 20 + 25 * 20 * 20 + 20 + 2880 * 20 + 20 + 20 * 6 + 6,
        ),
    ],
)
def test_parameter_counts(task, variant, total):
    model, images = create_model(task, variant), images_for(task)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert count(params) == total


def localization_shapes(task, variant, **options):
    """Shapes of the localization network's first kernels, without their biases."""
    model, images = create_model(task, variant, **options), images_for(task)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    own = params["transformer"]["localization"]
    kernels = {name: own[name]["kernel"].shape for name in ("conv_0", "conv_1") if name in own}
    return kernels | {"dense": (own.get("dense") or own)["dense_0"]["kernel"].shape}


def test_the_localization_network_of_scaled_digits_halves_112x112_before_it_convolves():
    convs = {"conv_0": (5, 5, 1, 20), "conv_1": (5, 5, 20, 20)}
    for variant in ("stn-c0", "stn-sl0", "stn-dl0"):
        # 112, halved 56, 52, pooled 26, 22, pooled 11.
        found = localization_shapes("scaled_mnist", variant)
        assert found == convs | {"dense": (11 * 11 * 20, 20)}
        # 112, 108, pooled 54, 50, pooled 25.
        found = localization_shapes("scaled_mnist", variant, recipe="legacy")
        assert found == convs | {"dense": (25 * 25 * 20, 20)}
    for recipe in ("published", "legacy"):
        # After a block 52: 48, pooled 24, 20, pooled 10.
        found = localization_shapes("scaled_mnist", "stn-sl1", recipe=recipe)
        assert found == {"conv_0": (5, 5, 64, 20), "conv_1": (5, 5, 20, 20), "dense": (2000, 20)}


def test_the_localization_network_of_svhn_keeps_the_size_but_for_its_pooling():
    convs = {"conv_0": (5, 5, 3, 32), "conv_1": (5, 5, 32, 32)}
    found = localization_shapes("svhn", "stn-c0")
    assert found == convs | {"dense": (32 * 32 * 32, 32)}
    found = localization_shapes("svhn_cropped", "stn-c0")
    assert found == convs | {"dense": (16 * 16 * 32, 32)}
    # 64, 60, pooled 30, 26.
    found = localization_shapes("svhn", "stn-c0", recipe="legacy")
    assert found == convs | {"dense": (26 * 26 * 32, 32)}


@pytest.mark.parametrize("variant", ["stn-c0", "stn-c1", "stn-sl1", "stn-dl1"])
def test_the_warped_array_of_scaled_digits_keeps_its_size(variant):
    for recipe, factor in (("published", 1), ("legacy", 2)):
        model = create_model("scaled_mnist", variant, recipe=recipe, width=1 / 16)
        images = images_for("scaled_mnist")
        (_, details), _ = jax.eval_shape(
            partial(model.init_with_output, return_details=True),
            jax.random.key(0),
            images,
        )
        side = (52 if variant == "stn-c1" else 112) // factor
        assert details.warped.shape[1:3] == (side, side)


def test_an_unknown_recipe_is_rejected():
    with pytest.raises(ValueError, match="recipe is 'old'; expected one of published, legacy"):
        create_model("rotated_mnist", "cnn", recipe="old")


def test_svhn_has_eight_blocks_and_three_wide_layers():
    model, images = create_model("svhn", "cnn"), images_for("svhn")
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    channels = [3, 48, 64, 128, 160, 192, 192, 192, 192]
    convolutions = sum(25 * a * b + b for a, b in itertools.pairwise(channels))
    dense = 4 * 4 * 192 * 3072 + 3072 + 2 * (3072 * 3072 + 3072) + 3072 * 55 + 55
    assert count(params) == convolutions + dense


@pytest.mark.thin
@pytest.mark.parametrize("kind", ["c", "sl", "dl"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("task", ["rotated_mnist", "translated_mnist"])
def test_networks_start_as_their_plain_classifier(task, kind, depth):
    model, variables, images = init(task, f"stn-{kind}{depth}")
    logits, details = details_of(model, variables, images)
    np.testing.assert_array_equal(details.theta, np.tile(np.eye(2, 3, dtype=np.float32), (3, 1, 1)))

    plain = create_model(task, "cnn")
    params = {k: v for k, v in variables["params"].items() if k != "transformer"}
    half = 2 if task == "translated_mnist" else 1
    if kind != "c":
        side = SIDES[task] // half
        expected = jax.jit(plain.apply)({"params": params}, resized(images, side))
        chex.assert_trees_all_close(details.warped, resized(images, side), atol=1e-5)
    else:
        # What is resized is the map at that depth.
        x = images
        bound = plain.bind({"params": params})
        for block in bound.blocks[:depth]:
            x = block(x)
        x = resized(x, x.shape[1] // half)
        chex.assert_trees_all_close(details.warped, x, atol=1e-5)
        for block in bound.blocks[depth:]:
            x = block(x)
        expected = bound.head(x)
    chex.assert_trees_all_close(logits, expected, atol=1e-4)


def resized(images, side):
    return affine_transform(images, affine.identity(), (side, side), align_corners=True)


@pytest.mark.parametrize("task", ["rotated_mnist", "translated_mnist"])
def test_all_variants_of_depth_0_are_the_same_network(task):
    model, variables, images = init(task, "stn-c0")
    variables = moved(variables)
    logits = jax.jit(model.apply)(variables, images)
    for other in ("stn-sl0", "stn-dl0"):
        same = jax.jit(create_model(task, other).apply)(variables, images)
        chex.assert_trees_all_equal(same, logits)


def moved(variables: dict) -> dict:
    """The variables with a layer to theta that is not zero, so that the warp matters."""
    theta = variables["params"]["transformer"]["theta"]
    kernel = 0.02 * jax.random.normal(jax.random.key(3), theta["kernel"].shape)
    transformer = {**variables["params"]["transformer"], "theta": {**theta, "kernel": kernel}}
    return {"params": {**variables["params"], "transformer": transformer}}


def test_sharing_holds_one_copy_of_the_layers_and_not_sharing_two():
    plain = jax.eval_shape(*init_args("cnn"))["params"]
    shared = jax.eval_shape(*init_args("stn-sl2"))["params"]
    own = jax.eval_shape(*init_args("stn-dl2"))["params"]
    blocks = count([plain["blocks_0"], plain["blocks_1"]])
    assert {k for k in shared if k != "transformer"} == set(plain)
    assert count(own) == count(shared) + blocks
    assert count(own["transformer"]) == count(shared["transformer"]) + blocks


def init_args(variant: str):
    return (
        create_model("rotated_mnist", variant).init,
        jax.random.key(0),
        images_for("rotated_mnist"),
    )


def test_shared_layers_get_gradients_from_both_their_uses():
    model, variables, images = init("rotated_mnist", "stn-sl1")
    variables = moved(variables)

    def loss(params, freeze):
        logits, details = model.apply({"params": params}, images, return_details=True)
        if freeze:  # the classifier's use alone: the pose is taken as given
            warped = affine_transform(
                images,
                jax.lax.stop_gradient(details.theta),
                padding_mode="border",
                align_corners=True,
            )
            plain = {k: v for k, v in params.items() if k != "transformer"}
            logits = create_model("rotated_mnist", "cnn").apply({"params": plain}, warped)
        return (logits**2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    both = gradient(variables["params"], False)["blocks_0"]["conv"]["kernel"]
    one = gradient(variables["params"], True)["blocks_0"]["conv"]["kernel"]
    assert float(jnp.abs(both - one).max()) > 1e-3


def test_iterations_compose_their_thetas_and_resample_the_input():
    model, variables, images = init("rotated_mnist", "stn-c0", iterations=2)
    variables = moved(variables)
    _, details = details_of(model, variables, images)
    single = create_model("rotated_mnist", "stn-c0")
    _, first = details_of(single, variables, images)
    _, second = details_of(single, variables, first.warped)
    expected = affine.compose(first.theta, second.theta)
    chex.assert_trees_all_close(details.theta, expected, atol=1e-6)
    once = affine_transform(images, expected, padding_mode="border", align_corners=True)
    chex.assert_trees_all_close(details.warped, once, atol=1e-5)
    assert float(jnp.abs(expected - first.theta).max()) > 1e-3


def test_iterations_with_downsampling_use_the_full_size_until_the_last():
    model, variables, images = init("translated_mnist", "stn-c0", iterations=3)
    assert details_of(model, variables, images)[1].warped.shape == (3, 30, 30, 1)


@pytest.mark.thin("stn-c3")
@pytest.mark.parametrize("variant", ["cnn", "stn-c0", "stn-c3", "stn-c8", "stn-sl8", "stn-dl3"])
def test_svhn_networks_answer_five_digits(variant):
    model, variables, images = init("svhn", variant, width=1 / 16)
    logits = jax.jit(model.apply)(variables, images)
    chex.assert_shape(logits, (3, 5, 11))
    dropped = jax.jit(partial(model.apply, train=True))(
        variables, images, rngs={"dropout": jax.random.key(1)}
    )
    assert float(jnp.abs(dropped - logits).max()) > 0


@pytest.mark.parametrize("dropout", [0.5, 0.0])
def test_dropout_is_scaled_in_all_layers(dropout):
    model = create_model("svhn", "stn-sl3", dropout=dropout)
    shares = [block.dropout for block in model.blocks] + [model.head.dropout]
    assert shares == [0, *[dropout / 2] * 8]
    with pytest.raises(ValueError, match="dropout is 2; expected a factor from 0"):
        create_model("svhn", "cnn", dropout=2)


@pytest.mark.parametrize("classes", [0, -3])
def test_numbers_of_classes_that_cannot_be(classes):
    with pytest.raises(ValueError, match=f"classes is {classes}; expected 1 or more"):
        create_model("svhn", "cnn", classes=classes)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.5, 0.0])
def test_dropout_changes_logits_unless_it_is_scaled_to_nothing(dropout):
    model, variables, images = init("svhn", "stn-sl3", width=1 / 16, dropout=dropout)
    dropped = jax.jit(partial(model.apply, train=True))(
        variables, images, rngs={"dropout": jax.random.key(1)}
    )
    moved = float(jnp.abs(dropped - jax.jit(model.apply)(variables, images)).max())
    assert (moved > 1e-6) == (dropout > 0)


def test_svhn_cropped_answers_one_digit():
    assert output_shape("svhn_cropped", "stn-sl3") == (3, 10)


def test_half_precision_keeps_parameters_poses_and_logits_in_float32():
    model, variables, images = init("rotated_mnist", "stn-sl1", dtype=jnp.bfloat16)
    logits, details = details_of(model, variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert (logits.dtype, details.theta.dtype) == (jnp.float32, jnp.float32)
    exact = jax.jit(create_model("rotated_mnist", "stn-sl1").apply)(variables, images)
    chex.assert_trees_all_close(logits, exact, atol=0.05)


def test_another_number_of_classes():
    assert output_shape("rotated_mnist", "cnn", classes=47) == (3, 47)


@pytest.mark.parametrize(
    ("name", "variant"),
    [("cnn", Variant(None, 0)), ("stn-c0", Variant("c", 0)), ("stn-dl12", Variant("dl", 12))],
)
def test_variant_names(name, variant):
    assert Variant.parse(name) == variant


@pytest.mark.parametrize("name", ["stn", "stn-c", "stn-x1", "STN-C0", "stn-c-1", "cnn1", "", None])
def test_unknown_variants_are_named_in_the_error(name):
    with pytest.raises(ValueError, match=r"variant is .*expected cnn, or stn-cX"):
        Variant.parse(name)


def test_errors_for_impossible_requests_say_what_is_possible():
    with pytest.raises(ValueError, match="task is 'mnist'; expected one of rotated_mnist"):
        create_model("mnist", "cnn")
    with pytest.raises(ValueError, match=r"'stn-sl3'.* has 2 blocks; expected a depth from 0 to 2"):
        create_model("rotated_mnist", "stn-sl3")
    with pytest.raises(ValueError, match="7x7 is too small for a 9x9 convolution"):
        create_model("rotated_mnist", "cnn").init(jax.random.key(0), jnp.zeros((1, 7, 7, 1)))


def test_the_earlier_name_of_crop_fraction_is_accepted():
    old, new = (
        create_model("translated_mnist", "stn-c0", **{name: 0.5})
        for name in ("window", "crop_fraction")
    )
    assert old == new
    assert new.transformer.crop_fraction == 0.5


def test_maps_that_are_too_small_are_rejected():
    for task, side, message in (
        ("svhn", 8, "a map of 1x1 is too small for pooling by 2"),
        ("rotated_mnist", 14, "a map of 3x3 is too small for a 7x7 convolution"),
    ):
        images = jnp.ones((1, side, side, 1))
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(create_model(task, "cnn").init, jax.random.key(0), images)
    for module in (DenseLocalization(), Head(10)):
        with pytest.raises(ValueError, match=r"a map of shape \(2, 0, 5, 3\) holds no values"):
            module.init(jax.random.key(0), jnp.ones((2, 0, 5, 3)))
