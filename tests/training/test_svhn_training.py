"""Training on house numbers: several labels an image, dropout, data that stays on the disk."""

import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from made_numbers import config_of, made

from stn_jax.data.tasks import TASKS
from stn_jax.models import Intermediates
from stn_jax.training import ConfigError
from stn_jax.training.assemble import assemble
from stn_jax.training.evaluation import Predictions, predict, summarize
from stn_jax.training.step import Data, Metrics, init_state, make_train_steps

# --- several labels --------------------------------------------------------------------------


def test_an_image_is_right_only_where_all_five_digits_are(svhn_cache):
    run = assemble(config_of(svhn_cache))
    labels = np.array([[1, 2, 10, 10, 10], [3, 10, 10, 10, 10], [4, 5, 6, 7, 8]])
    said = np.tile(labels, (2, 1, 1, 1, 1)).reshape(2, 1, 3, 5)
    said[0, 0, 2, 4] = 9  # one digit of one number
    said[1, 0, 0, 2] = 1  # a digit too many
    said[1, 0, 1] = 0  # all wrong
    ones = np.ones((2, 1, 3))
    result = summarize(run, Predictions(said, ones, None, np.zeros((1, 3, 2, 3)), labels))
    np.testing.assert_allclose(result["test_error_percent"], [100 / 3, 200 / 3], atol=1e-3)
    np.testing.assert_allclose(result["position_error_percent"], [100 / 15, 600 / 15], atol=1e-3)


class Constant(nn.Module):
    """Five times the same logits, which start at 0, for all images."""

    transformer: None = None

    @nn.compact
    def __call__(self, images, *, train=False, return_details=False):
        logits = self.param("logits", nn.initializers.zeros, (5, 11))
        logits = jnp.broadcast_to(logits, (len(images), 5, 11))
        return (logits, Intermediates(None, images)) if return_details else logits


def test_a_step_adds_up_five_cross_entropies_and_counts_whole_numbers():
    labels = jnp.array([[0] * 5] * 3 + [[0, 0, 0, 0, 10]] * 5)
    data = Data(jnp.zeros((8, 4, 4, 3), jnp.uint8), labels, jnp.zeros(3), jnp.ones(3))
    task, optimizer = TASKS["svhn"], optax.sgd(1.0)
    steps = make_train_steps(Constant(), optimizer, task, seeds=(0,), batch_size=8)
    state = init_state(Constant(), optimizer, task, data, (0,))
    state, sums = steps(state, Metrics.empty(Constant(), 1), data, jnp.int32(1))
    assert float(sums.loss[0]) == pytest.approx(5 * math.log(11), rel=1e-6)
    # Equal logits answer 0: right for three of eight.
    assert float(sums.errors[0]) == pytest.approx(5 / 8)
    # The gradient of a cross-entropy: probability less share, at each position.
    expected = np.full((5, 11), -1 / 11)
    expected[:4, 0] += 1
    expected[4, [0, 10]] += [3 / 8, 5 / 8]
    np.testing.assert_allclose(state["params"]["logits"][0], expected, atol=1e-6)


@pytest.mark.slow
def test_confidence_is_the_probability_of_the_whole_number(svhn_cache):
    run = assemble(config_of(svhn_cache, crop=54))
    params = run.init_state()["params"]
    said = predict(run, params, quiet=True)
    chex.assert_shape([said.classes, said.confidence], [(1, 1, 7, 5), (1, 1, 7)])
    middle = run.test.images[:, 5:59, 5:59] / np.float32(255)
    seen = (middle - run.data.mean) / run.data.deviation
    logits = run.apply(jax.tree.map(lambda x: x[0], params), seen)[0]
    each = np.asarray(jax.nn.softmax(logits)).max(-1)
    np.testing.assert_allclose(said.confidence[0, 0], each.prod(-1), rtol=1e-4)


# --- networks --------------------------------------------------------------------------------

VARIANTS = ("cnn", "stn-c0", "stn-c3", "stn-c6", "stn-c8", "stn-sl3", "stn-sl6", "stn-sl8")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["svhn", "svhn_cropped"])
@pytest.mark.parametrize("variant", [*VARIANTS, "stn-dl3"])
def test_all_networks_can_take_a_step(svhn_cache, task, variant):
    run = assemble(
        config_of(
            svhn_cache,
            task=task,
            dataset={"svhn": "svhn_numbers"}.get(task, task),
            variant=variant,
            compute_dtype="bfloat16",
        )
    )
    state = jax.eval_shape(run.init_state)
    after, sums = jax.eval_shape(
        run.train_steps(), state, run.empty_metrics(), run.data, jnp.int32(1)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert {x.dtype for x in jax.tree.leaves(after["params"])} == {jnp.dtype("float32")}
    chex.assert_shape(sums.loss, (1,))


@pytest.mark.slow
def test_dropout_is_on_in_training_and_differs_by_step(svhn_cache):
    # All images in each step and next to no learning: what differs is dropout.
    config = config_of(svhn_cache, batch_size=40, learning_rate=1e-30)
    run = assemble(config)
    steps, state, losses = run.train_steps(), run.init_state(), []
    for _ in range(2):
        state, sums = steps(state, run.empty_metrics(), run.data, jnp.int32(1))
        losses.append(float(sums.loss[0]))
    assert abs(losses[0] - losses[1]) > 1e-4
    _, sums = steps(run.init_state(), run.empty_metrics(), run.data, jnp.int32(1))
    assert float(sums.loss[0]) == losses[0]


@pytest.mark.slow
def test_the_full_network_takes_steps(svhn_cache):
    config = config_of(svhn_cache, width=1.0, variant="stn-sl8", batch_size=2, learning_rate=1e-4)
    run = assemble(config)
    state = run.init_state()
    before = jax.device_get(state["params"])
    state, sums = run.train_steps()(state, run.empty_metrics(), run.data, jnp.int32(2))
    assert int(state["step"]) == 2
    assert (int(sums.bad_step[0]), math.isfinite(float(sums.loss[0]))) == (-1, True)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, jax.device_get(state["params"]))
    assert all(x > 0 for x in jax.tree.leaves(moved["head"]))
    assert moved["transformer"]["theta"]["bias"].max() > 0
    # Jaderberg et al. 2015, Appendix A.3: 5x5 convolutions, three layers of 3072.
    assert before["blocks_0"]["conv"]["kernel"].shape == (1, 5, 5, 3, 48)
    assert before["head"]["dense_2"]["kernel"].shape == (1, 3072, 3072)


@pytest.mark.slow
def test_bfloat16_computes_what_float32_does_more_or_less(svhn_cache):
    run = assemble(config_of(svhn_cache, variant="stn-sl3"))
    params = jax.tree.map(lambda x: x[0], run.init_state()["params"])
    images = (run.data.images[:4] / 255 - run.data.mean) / run.data.deviation
    logits, details = jax.jit(run.apply)(params, images)
    half = assemble(config_of(svhn_cache, variant="stn-sl3", compute_dtype="bfloat16"))
    rough, rough_details = jax.jit(half.apply)(params, images)
    assert rough_details.theta.dtype == rough.dtype == jnp.float32
    # Eight bits of mantissa, a dozen layers.
    assert 0 < float(jnp.abs(rough - logits).max()) < 0.05 * float(jnp.abs(logits).max())
    np.testing.assert_allclose(rough_details.theta, details.theta, atol=0.05)


# --- data ------------------------------------------------------------------------------------


def test_the_images_stay_on_the_disk(svhn_cache):
    if jax.default_backend() != "cpu":
        pytest.skip("an accelerator has memory of its own")
    run = assemble(config_of(svhn_cache))
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line for line in maps if "svhn_numbers" in line]
    address = run.data.images.unsafe_buffer_pointer()
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
    assert any(low <= address < high for low, high in spans)


def test_images_are_normalized_by_what_the_cache_has_stored(svhn_cache):
    run = assemble(config_of(svhn_cache, holdout=8))
    images = made(40, 64)[0] / 255
    np.testing.assert_allclose(run.data.mean, images.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(run.data.deviation, images.std((0, 1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dataset": "svhn_cropped"},
            "svhn_cropped, with one label an image, and task svhn; expec",
        ),
        (
            {"task": "svhn_cropped"},
            r"svhn_numbers, with five labels an image .* expected .* one la",
        ),
        ({"task": "rotated_mnist"}, "task rotated_mnist; expected a data set with one label an"),
        ({"crop": 64}, "crop is 64, but the images of svhn_numbers have 64 pixels per side"),
    ],
)
def test_data_that_does_not_fit_the_task(svhn_cache, values, message):
    with pytest.raises(ConfigError, match=message):
        assemble(config_of(svhn_cache, **values))


@pytest.mark.slow
def test_training_needs_none_of_the_packages_that_prepared_the_data(svhn_cache):
    code = """
        import sys
        for name in ("tensorflow", "tensorflow_datasets", "h5py", "PIL", "array_record"):
            sys.modules[name] = None  # an import of it fails
        import jax, jax.numpy as jnp
        from stn_jax.training import Config
        from stn_jax.training.assemble import assemble
        run = assemble(Config(task="svhn", dataset="svhn_numbers", variant="cnn", batch_size=8,
                              cache_dir=sys.argv[1]))
        print(run.data.images.shape)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(svhn_cache)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "(40, 64, 64, 3)\n", done.stderr
