"""Named rotations of oblong images: new runs keep angles, stored ones stay as they were trained."""

import json
import shutil

import jax
import numpy as np
import pytest

import stn_jax
from stn_jax.training import Config, ConfigError, train
from stn_jax.training.assemble import assemble
from stn_jax.training.config_files import read_config_file
from stn_jax.training.restore import evaluate_workdir, load
from stn_jax.training.workdir import Workdir
from stn_jax.warp import transforms


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 12, 17, 1), dtype=np.uint8)
    np.savez(root / "mine.npz", images=images, labels=np.arange(40) % 2)
    return {
        "dataset": f"npz:{root / 'mine.npz'}",
        "task": "rotated",
        "variant": "stn-c0",
        "transform": "rotation",
        "width": 1 / 8,
        "epochs": 2,
        "batch_size": 16,
        "localization_rate": 1.0,
        "test_passes": 1,
        "figures": False,
        "cache_dir": str(root),
    }


@pytest.fixture(scope="module")
def finished(fields, tmp_path_factory):
    """A run as earlier versions stored it: they knew no aspect."""
    path = tmp_path_factory.mktemp("earlier") / "run"
    train(Config(**fields, aspect=1.0), path)
    for name in ("config.json", "result.json"):
        stored = json.loads((path / name).read_text())
        del (stored if name == "config.json" else stored["config"])["aspect"]
        (path / name).write_text(json.dumps(stored))
    assert "aspect" not in json.loads((path / "network.json").read_text())["model"]
    return path


@pytest.fixture
def earlier(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def family(model):
    return model.transformer.family()


def params_of(path):
    run, state = load(path)
    assert family(run.model) == transforms.Rotation()
    return state["params"]


@pytest.mark.thin
@pytest.mark.parametrize("described", [True, False])
def test_a_stored_run_is_read_as_it_was_trained(earlier, described):
    if not described:
        (earlier / "network.json").unlink()
    model, variables, _ = stn_jax.load_run(earlier)
    assert family(model) == transforms.Rotation()
    np.testing.assert_array_equal(
        variables["params"]["transformer"]["theta"]["kernel"],
        params_of(earlier)["transformer"]["theta"]["kernel"][0],
    )
    before = Workdir(earlier).result()["test_error_percent"]
    assert evaluate_workdir(earlier)["test_error_percent"] == before


@pytest.mark.slow
def test_a_stored_run_is_resumed_as_it_was_begun(earlier, fields):
    whole = params_of(earlier)
    (earlier / "result.json").unlink()
    last = max((earlier / "checkpoints").iterdir(), key=lambda path: int(path.stem))
    last.unlink()
    train(Config(**fields), earlier)
    assert Config.load(earlier).aspect == 1
    jax.tree.map(np.testing.assert_array_equal, params_of(earlier), whole)
    with pytest.raises(ConfigError, match=r"aspect: 1.0 against 1.5"):
        train(Config(**fields, aspect=1.5), earlier)


def test_a_new_run_has_the_aspect_of_its_images(fields, tmp_path):
    train(Config(**fields | {"epochs": 1}), tmp_path / "run")
    for aspect in (16 / 11, Config.load(tmp_path / "run").aspect):
        assert family(stn_jax.load_run(tmp_path / "run")[0]) == transforms.Rotation(aspect)


@pytest.mark.parametrize(
    ("changed", "aspect"),
    [
        ({"transform": "similarity", "align_corners": False}, 17 / 12),
        ({"aspect": 2.0}, 2),
    ],
)
def test_the_aspect_of_a_configuration(fields, changed, aspect):
    run = assemble(Config(**fields | changed))
    assert run.config.aspect == pytest.approx(aspect)
    assert family(run.model).aspect == pytest.approx(aspect)


def test_where_it_makes_no_difference_it_is_left_open(fields):
    assert Config(transform="rotation", aspect=1.0).aspect == 0  # MNIST is square
    run = assemble(Config(**fields | {"transform": "affine", "aspect": 2.0}))
    assert (run.config.aspect, family(run.model)) == (0, transforms.Affine())
    # A config file may not know yet which transform the command will choose.
    assert read_config_file("own_data", {"transform": "rotation"}).aspect == 0
    assert Config.from_stored({}) == Config(recipe="legacy", learning_rate=0.2)
