"""A folder of images or a file of arrays, from the configuration to the report."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import stn_jax
from stn_jax.cli.eval import main as evaluate
from stn_jax.cli.train import main as train_command
from stn_jax.report.sweep import sweep
from stn_jax.training import Config, ConfigError, train
from stn_jax.training.assemble import assemble
from stn_jax.training.restore import evaluate_workdir_on, load

SLOW = pytest.mark.slow
NAMES = ("bar", "dot 2", "dot 10")


def picture(rng, label, shape):
    """A bar, a dot above or a dot below, in noise."""
    pixels = rng.integers(0, 60, (*shape, 3), dtype=np.uint8)
    height, width = shape
    rows = (slice(0, height), slice(1, 4), slice(height - 4, height - 1))[label]
    pixels[rows, width // 2 - 1 : width // 2 + 2] = 250 - 40 * label
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "pictures"
    rng = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = picture(rng, label, (12, 16))
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def fields(folder, tmp_path_factory):
    return {
        "dataset": f"folder:{folder}",
        "task": "affine",
        "max_angle": 20.0,
        "min_scale": 0.8,
        "max_scale": 1.2,
        "variant": "stn-sl1",
        "width": 1 / 4,
        "epochs": 12,
        "batch_size": 16,
        "learning_rate": 0.05,
        "localization_rate": 0.01,
        "test_passes": 2,
        "figures": False,
        "cache_dir": str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture(scope="module")
def trained(fields, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    figures = [each.replace("figures=False", "figures=True") for each in arguments]
    assert train_command([f"--workdir={path}", *figures]) == 0
    return path


def test_class_names_are_kept(trained, folder, tmp_path, capsys):
    result = json.loads((trained / "result.json").read_text())
    assert result["class_names"] == ["bar", "dot 2", "dot 10"]
    assert result["mean"] < 40
    assert (trained / "figures" / "gallery.png").exists()
    assert evaluate([f"--workdir={trained}", "--report"]) == 0
    page = (trained / "report.html").read_text()
    assert 'scope="col">dot 10</th>' in page
    assert "No test split: 20 % of each class were drawn as one (seed 0)." in page
    assert "Rotate an image" in page
    capsys.readouterr()
    pictures = [str(folder / name / "3.png") for name in NAMES]
    assert evaluate([f"--workdir={trained}", "--image", *pictures]) == 0
    lines = capsys.readouterr().out.splitlines()[:3]
    said = [
        line.removeprefix(f"{path}: ").partition(" (")[0]
        for line, path in zip(lines, pictures, strict=True)
    ]
    assert set(said) <= set(NAMES)
    assert sum(a == b for a, b in zip(said, NAMES, strict=True)) >= 2


def test_own_pictures_are_read_as_in_training(trained, folder):
    from stn_jax.report.user_images import classify_files

    model, variables, normalize = stn_jax.load_run(trained)
    pixels = np.asarray(Image.open(folder / "bar" / "5.png"))
    probability = jax.nn.softmax(model.apply(variables, normalize(pixels[None])))[0]
    (found,) = classify_files(trained, [folder / "bar" / "5.png"])
    assert found.label == NAMES[int(probability.argmax())]
    assert found.probability == pytest.approx(float(probability.max()), abs=1e-4)


@pytest.mark.slow
def test_the_start_says_what_was_done(fields, tmp_path, capsys):
    arguments = [f"--config.{k}={v}" for k, v in {**fields, "epochs": 1, "task": "plain"}.items()]
    assert train_command([f"--workdir={tmp_path}", *arguments]) == 0
    out = capsys.readouterr().out
    assert "data: no test split: 20 % of each class were drawn as one (seed 0)" in out
    assert "network input 12 x 16 x 3" in out


@pytest.mark.slow
def test_other_data_must_have_the_same_classes(trained, folder, tmp_path):
    found = evaluate_workdir_on(trained, {"dataset": f"folder:{folder}"})
    assert found["test_examples"] == 12
    other = tmp_path / "other"
    for i, name in enumerate(("bar", "dot 2", "dot 3")):
        (other / name).mkdir(parents=True)
        for k in range(2):
            pixels = picture(np.random.default_rng(k), i, (12, 16))
            Image.fromarray(pixels).save(other / name / f"{k}.png")
    with pytest.raises(ConfigError, match=r"has class names .*dot 3.* trained on .*dot 10"):
        evaluate_workdir_on(trained, {"dataset": f"folder:{other}"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "rotated_mnist"}, "needs square images.* 12x16; expected task rotated"),
        ({"classifier": "mnist"}, "does not fit folder:.*12x16x3: a map of .* is too small"),
        ({"blocks": ((3, 4, 1),) * 4}, "too small for pooling"),
        ({"variant": "stn-sl3"}, "has 2 blocks"),
        ({"max_data_gb": 1e-5}, "max_data_gb sets another bound"),
        ({"batch_size": 49}, "48 training images"),
        ({"crop": 12, "task": "plain"}, "12 pixels per side"),
    ],
)
def test_what_does_not_fit_the_images_is_said(fields, changes, message):
    with pytest.raises((ConfigError, stn_jax.data.sources.DataError), match=message):
        assemble(Config(**fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": "12 x 16"}, "image_size is '12 x 16'; expected height x width"),
        ({"image_size": "0"}, "expected height x width"),
        ({"channels": 5}, "channels is 5; expected 0 or more and at most 4"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"min_scale": 1.3}, "min_scale is 1.3 and max_scale 1.2"),
        ({"task": "rotated", "max_angle": 0.0}, "the range of its angle is empty"),
        ({"task": "rotated_mnist", "max_angle": 0.0}, "the range of its angle is empty"),
        ({"task": "scaled", "min_scale": 1.2}, "the range of its scale is empty"),
        ({"blocks": ((3, 4),)}, "blocks is .* expected .kernel size, features"),
        ({"blocks": "3"}, "blocks is '3'"),
        ({"blocks": ((3, -4, 1),)}, r"blocks has \(3, -4, 1\)"),
        ({"classifier": "big"}, "classifier is 'big'; expected one of"),
        ({"task": "svhn", "classifier": "small"}, "whose classifier is its own"),
        ({"variant": "stn-c9"}, "from 0 to 8"),
    ],
)
def test_fields_out_of_range(fields, changes, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields | changes)


def test_fields_are_read_from_flags_and_json(fields):
    config = Config(**fields | {"blocks": [[5, 8, 1], [3, 8, 0]], "image_size": "20"})
    assert config.blocks == ((5, 8, 1), (3, 8, 0))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.data_options.image_size == (20, 20)
    assert Config(**config.to_json()).blocks == config.blocks


def test_arrays_train_and_blocks_are_stored(tmp_path, fields):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = np.stack([picture(rng, label, (12, 12))[..., :2] for label in labels])
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    config = Config(
        **fields
        | {
            "dataset": f"npz:{tmp_path / 'own.npz'}",
            "blocks": ((3, 8, 1), (3, 8, 1)),
            "task": "plain",
            "variant": "stn-c1",
            "width": 1.0,
            "epochs": 1,
        }
    )
    result = train(config, tmp_path / "run")
    assert "class_names" not in result
    assert result == train(config, tmp_path / "run")  # as it was stored
    run, state = load(tmp_path / "run")
    assert run.input_shape() == (12, 12, 2)
    model, variables, normalize = stn_jax.load_run(tmp_path / "run")
    seen = normalize(images[:3])
    expected = run.apply(jax.tree.map(lambda x: x[0], state["params"]), seen)[0]
    np.testing.assert_allclose(model.apply(variables, seen), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "title", "values"),
    [
        ("plain", "Rotate an image", np.linspace(-90, 90, 61)),
        pytest.param("rotated", "Rotate an image", np.linspace(-20, 20, 61), marks=SLOW),
        ("translated", "Move an image", np.linspace(-4, 4, 61)),
        pytest.param("scaled", "Scale an image", np.geomspace(0.8, 1.2, 61), marks=SLOW),
    ],
)
def test_a_report_sweeps_the_range_of_the_task(fields, task, title, values):
    run = assemble(Config(**fields | {"task": task, "variant": "stn-c0"}))
    params = jax.tree.map(lambda x: x[0], run.init_state()["params"])
    found = sweep(run, params)
    assert found.title == title
    np.testing.assert_allclose(found.values, values)
    assert found.inputs.shape[2:] == (12, 16, 3)
    # Untrained, the transformer shows what it is given.
    np.testing.assert_allclose(found.aligned, found.inputs, atol=1e-5)
    middle = {label: found.inputs[i, 30] for i, label in enumerate(found.labels)}
    if task not in ("plain", "scaled"):  # there the middle is no distortion
        assert list(middle) == list(NAMES)
        for label, image in middle.items():
            k = list(run.test.labels).index(NAMES.index(label))
            np.testing.assert_allclose(image, run.test.images[k] / 255, atol=1e-5)
