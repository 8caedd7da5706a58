"""Runs compared on the same images."""

import numpy as np
import pytest
from scipy import stats

from stn_jax.cli.eval import main
from stn_jax.training import Config, ConfigError, comparison, train
from stn_jax.training.comparison import compare, different_fields, table
from stn_jax.training.evaluation import predict
from stn_jax.training.restore import load


@pytest.fixture(scope="module")
def runs(trained_run, tiny_config, tmp_path_factory):
    root = tmp_path_factory.mktemp("comparison")
    (root / "one").symlink_to(trained_run)
    fields = {"variant": "cnn", "epochs": 2, "log_every": 2, "seeds": (5, 4, 3), "test_passes": 1}
    train(Config(**tiny_config | fields), root / "two")
    return root


def wrong(path):
    run, state = load(path)
    return dict(zip(run.config.seeds, predict(run, state["params"]).wrong, strict=True))


def test_differences_are_paired_by_image_and_by_seed(runs):
    first, second = compare([runs / "one", runs / "two"])
    assert (first.over_images, first.over_seeds) == (None, None)
    one, two = wrong(runs / "one"), wrong(runs / "two")
    by_image = [100 * np.mean(list(each.values()), (0, 1)) for each in (one, two)]
    expected = stats.ttest_rel(by_image[1], by_image[0]).confidence_interval()
    mean, half = second.over_images
    np.testing.assert_allclose([mean - half, mean + half], expected, rtol=1e-9)
    assert mean == pytest.approx(second.summary["mean"] - first.summary["mean"], abs=1e-3)
    by_seed = [[100 * each[seed].mean() for seed in (3, 5)] for each in (one, two)]
    expected = stats.ttest_rel(by_seed[1], by_seed[0]).confidence_interval()
    mean, half = second.over_seeds
    np.testing.assert_allclose([mean - half, mean + half], expected, rtol=1e-9)
    assert different_fields([first, second]) == {
        "variant": ["stn-sl1", "cnn"],
        "seeds": [[3, 5], [5, 4, 3]],
        "epochs": [1, 2],
        "test_passes": [2, 1],
    }
    header, row, other = table([first, second])
    assert len(header) == len(row) == len(other) == 5
    assert row[2:] == ["3, 5", "-", "-"]
    assert row[1].startswith(f"{first.summary['mean']:.2f} \N{PLUS-MINUS SIGN}")


def test_a_run_does_not_differ_from_itself(runs):
    assert compare([runs / "one", runs / "one"])[1].over_images == (0, 0)
    assert comparison.format_interval((-0.5, None)) == "-0.50"


def test_the_command_prints_a_table_and_writes_a_page(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    folders = [str(runs / "one"), str(runs / "two")]
    assert main(["compare", *folders, "--page", str(page)]) == 0
    out = capsys.readouterr().out
    assert "Errors on the test set, 90 images" in out
    assert [line.split("  ")[0] for line in out.splitlines()[2:4]] == folders
    text = page.read_text()
    for path in folders:
        assert f'<th scope="row">{path}</th>' in text
    assert "What differs in the configurations" in text
    assert 'scope="row">epochs</th><td>1</td><td>2</td>' in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{one}"], "compare was given 1 folder(s); expected two or more"),
        (["{one}", "nowhere"], "expected the folder of a training run"),
        (["{one}", "{two}", "--page={one}/config.json/x"], "config.json cannot be written to"),
        (["{one}", "{two}", "--page={one}"], "name another file"),
        (["{one}", "{two}", "--dataset=no set"], "cannot be the name of a data set"),
    ],
)
def test_what_cannot_be_compared(runs, capsys, arguments, message):
    places = {name: runs / name for name in ("one", "two")}
    assert main(["compare", *(each.format(**places) for each in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_runs_that_held_out_digits_are_compared_on_these(runs, tiny_config, tmp_path):
    fields = {"variant": "cnn", "epochs": 1, "test_passes": 1, "holdout": 60}
    result = train(Config(**tiny_config | fields), tmp_path / "run")
    first, second = compare([tmp_path / "run", tmp_path / "run"])
    assert first.evaluated_on == second.evaluated_on == "held-out training examples"
    assert first.summary["test_examples"] == 60
    assert first.summary["test_error_percent"] == result["test_error_percent"]
    with pytest.raises(ConfigError, match=r"\(mnist, held-out training examples\) than"):
        compare([runs / "two", tmp_path / "run"])
    for each in compare([runs / "two", tmp_path / "run"], {"dataset": "mnist"}):
        assert (each.evaluated_on, each.summary["test_examples"]) == ("test set", 90)


@pytest.mark.slow
def test_other_test_images_are_refused(runs, tiny_config, tmp_path):
    fields = {"variant": "cnn", "epochs": 1, "test_passes": 1, "batch_size": 16}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(40) % 10)
    own = {"dataset": f"npz:{tmp_path / 'own.npz'}"}
    train(Config(**tiny_config | fields | own), tmp_path / "run")
    message = r"evaluated on other images \(npz.*, test set\) than .*\(mnist, test set\)"
    with pytest.raises(ConfigError, match=message):
        compare([runs / "one", tmp_path / "run"])
    assert len(compare([runs / "one", tmp_path / "run"], own)) == 2
