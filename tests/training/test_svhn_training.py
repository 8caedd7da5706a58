"""Training on house numbers: several labels an image, dropout, data that stays on the disk."""

import importlib.util
import json
import math
import os
import shutil
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
from PIL import Image

from stn_jax.cli import experiments as command
from stn_jax.data import cache, house_numbers, sources
from stn_jax.data.sources import Source, Split
from stn_jax.data.tasks import TASKS
from stn_jax.models import Intermediates
from stn_jax.report.user_images import classify_files
from stn_jax.training import Config, ConfigError, train
from stn_jax.training.assemble import assemble
from stn_jax.training.evaluation import Predictions, predict, summarize
from stn_jax.training.restore import evaluate_workdir_on, load
from stn_jax.training.step import Data, Metrics, init_state, make_train_steps
from stn_jax.warp import affine


def made(count, side, seed=0):
    """Random images, and random house numbers."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    numbers = [rng.integers(0, 10, rng.integers(1, 6)).tolist() for _ in range(count)]
    return images, np.stack([house_numbers.labels_of(number) for number in numbers])


@pytest.fixture(scope="module")
def svhn_cache(tmp_path_factory):
    """A cache of a few made-up house numbers and single digits."""
    root = tmp_path_factory.mktemp("svhn")
    splits = {"train": (40, [made(40, 64)]), "test": (7, [made(7, 64, 1)])}
    cache.write(root / "svhn_numbers", "svhn_numbers", "1.0.0", 11, splits)
    (images, labels), (test, test_labels) = made(40, 32), made(7, 32, 1)
    splits = {"train": (40, [(images, labels[:, 0])]), "test": (7, [(test, test_labels[:, 0])])}
    cache.write(root / "svhn_cropped", "svhn_cropped", "3.1.0", 10, splits)
    return root


def config_of(root, **values):
    fields = {
        "task": "svhn",
        "variant": "cnn",
        "dataset": "svhn_numbers",
        "cache_dir": str(root),
        "width": 1 / 48,
        "batch_size": 8,
        "epochs": 1,
        "schedule": "constant",
        "test_passes": 1,
        "figures": False,
        "localization_rate": 0.1,
    }
    return Config(**{**fields, **values})


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


# --- generated data --------------------------------------------------------------------------


def bars(keys, digits):
    """Draws a number as five bars, as bright as its digits, with noise from the key."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, (20, 20, 3)))(keys)
    height = jnp.repeat(digits.astype(jnp.float32) / 10, 4, axis=-1)
    return (height[:, None, :, None] + noise) / 2


def generated():
    splits = {}
    for split, count in (("train", 24), ("test", 6)):
        labels = made(count, 1, seed=count)[1]
        splits[split] = Split(labels.astype(np.uint8), labels)
    return Source("bars", "1.0.0", 11, splits["train"], splits["test"], draw=bars)


@pytest.mark.slow
def test_a_generated_data_set_trains_and_is_drawn_afresh(monkeypatch, tmp_path, request):
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("made_bars", None))
    module.generated = generated
    monkeypatch.setitem(sys.modules, "made_bars", module)
    monkeypatch.setitem(sources.GENERATED, "bars", "made_bars:generated")
    config = config_of(tmp_path, dataset="bars", crop=16, variant="cnn", test_passes=2)
    run = assemble(config)
    chex.assert_shape(run.data.images, (24, 5))
    assert run.input_shape() == (16, 16, 3)
    state, _ = jax.eval_shape(
        run.train_steps(), run.init_state(), run.empty_metrics(), run.data, jnp.int32(1)
    )
    chex.assert_equal_shape_prefix(jax.tree.leaves(state["params"]), 1)
    said = predict(run, run.init_state()["params"], quiet=True)
    chex.assert_shape(said.classes, (1, 2, 6, 5))
    assert np.abs(said.confidence[0, 0] - said.confidence[0, 1]).max() > 0  # freshly drawn
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    same = jnp.stack([run.data.images[0]] * 3)
    shown = run.task.transform(False)(keys, same, run.data.images).images
    assert float(jnp.abs(shown[0] - shown[1]).max()) > 0.1
    # Normalized by what is measured on drawn images.
    assert 0.4 < float(run.data.mean.mean()) < 0.9


# --- photographs, and other data -------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(svhn_cache, tmp_path_factory):
    """A workdir in which a small network was trained for an epoch on parts of the images."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(config_of(svhn_cache, variant="stn-sl3", crop=54, checkpoint_every=1), folder)
    return folder


@pytest.mark.slow
def test_a_photograph_is_read_as_the_task_shows_it(trained, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "house.png")
    (answer,) = classify_files(trained, [tmp_path / "house.png"], (20, 10, 60, 50))
    line = str(answer)
    run, state = load(trained)
    crop = house_numbers.crop_number(pixels, np.array([[20, 10, 60, 50]]))[5:59, 5:59]
    seen = (crop[None] / np.float32(255) - run.data.mean) / run.data.deviation
    logits, details = run.apply(jax.tree.map(lambda x: x[0], state["params"]), seen)
    probability = np.asarray(jax.nn.softmax(logits[0]))
    digits = "".join(map(str, (d for d in probability.argmax(-1) if d != 10))) or "no digits"
    assert f"house.png: {digits} ({100 * probability.max(-1).prod():.1f} %), rotated by" in line
    assert f"zoomed by {1 / float(affine.scale(details.theta[0])):.2f}" in line
    picture = np.asarray(Image.open(trained / "figures" / "images.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    with pytest.raises(ConfigError, match=r"--box needs one photograph .* found 2 files"):
        classify_files(trained, [tmp_path / "house.png"] * 2, (20, 10, 60, 50))


@pytest.mark.slow
def test_a_network_is_tested_on_other_data_as_it_was_trained(svhn_cache, trained, tmp_path):
    images, labels = made(5, 64, seed=9)
    splits = {"train": (3, [made(3, 64, 8)]), "test": (5, [(images // 2, labels)])}
    cache.write(tmp_path / "other", "other", "1.0.0", 11, splits)
    before = sorted(path.name for path in trained.iterdir())
    found = evaluate_workdir_on(trained, {"dataset": "other", "cache_dir": str(tmp_path)})
    assert sorted(path.name for path in trained.iterdir()) == before
    run, state = load(trained)
    seen = (images[:, 5:59, 5:59] // 2 / np.float32(255) - run.data.mean) / run.data.deviation
    logits = run.apply(jax.tree.map(lambda x: x[0], state["params"]), seen)[0]
    wrong = np.asarray(logits.argmax(-1)) != labels
    assert found["test_examples"] == 5
    assert found["position_error_percent"] == [pytest.approx(100 * wrong.mean(), abs=1e-3)]
    with pytest.raises(ConfigError, match="svhn_cropped, with one label an image"):
        evaluate_workdir_on(trained, {"dataset": "svhn_cropped"})


@pytest.mark.slow
def test_the_networks_of_a_table_are_also_tested_on_other_data(
    svhn_cache, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    shutil.copytree(svhn_cache / "svhn_numbers", "cache/svhn_numbers")
    splits = {"train": (3, [made(3, 64, 8)]), "test": (5, [made(5, 64, 9)])}
    cache.write(tmp_path / "cache" / "other", "other", "1.0.0", 11, splits)
    flags = ["table2", "--rows=svhn/cnn", "--seeds=0,1", "--seeds_per_program=2", "--epochs=1"]
    flags += ["--cache_dir=cache", "--config.width=0.02", "--config.batch_size=20"]
    flags += ["--config.compute_dtype=float32"]

    def results():
        return [json.loads(line) for line in Path("results/table2.jsonl").read_text().splitlines()]

    assert command.main(flags) == 0
    assert [sorted(line.get("also_tested", {})) for line in results()] == [[], []]
    for _ in range(2):  # the second time there is nothing left to do
        assert command.main([*flags, "--also_test=other"]) == 0
        assert len(results()) == 4
    for line in results()[2:]:
        assert line["also_tested"]["other"]["test_examples"] == 5
        assert 0 <= line["also_tested"]["other"]["test_error_percent"] <= 100
    assert "of 5 real test images (other)" in capsys.readouterr().out
    shutil.rmtree("runs")
    Path("results/table2.jsonl").write_text(json.dumps(results()[0]) + "\n")
    flags[flags.index("--seeds=0,1")] = "--seeds=0"
    assert command.main([*flags, "--also_test=other"]) == 0
    assert "svhn/cnn, seed 0: not tested on other, its folder" in capsys.readouterr().out
