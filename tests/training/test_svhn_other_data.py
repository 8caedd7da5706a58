"""House numbers that are generated, photographed, or of another data set than the training's."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_numbers import config_of, made
from PIL import Image

from stn_jax.cli import experiments as command
from stn_jax.data import cache, house_numbers, sources
from stn_jax.data.sources import Source, Split
from stn_jax.report.user_images import classify_files
from stn_jax.training import ConfigError, TrainingError, train
from stn_jax.training.assemble import assemble
from stn_jax.training.evaluation import predict
from stn_jax.training.restore import evaluate_workdir_on, load
from stn_jax.warp import affine

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

    # Each run is tested before the next one begins.
    def train_all_but_the_second(config, workdir):
        if config.seeds == (1,):
            raise TrainingError("stopped")
        return train(config, workdir)

    monkeypatch.setattr("stn_jax.experiments.jobs.train", train_all_but_the_second)
    Path("results/table2.jsonl").unlink()
    flags[flags.index("--seeds=0")] = "--seeds=0,1"
    flags.remove("--seeds_per_program=2")
    assert command.main([*flags, "--also_test=other"]) == 1
    assert [(line["seed"], "also_tested" in line) for line in results()] == [(0, False), (0, True)]
