"""Results, pictures and the report of networks with several transformers show all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax.models import Intermediates
from stn_jax.report.gallery import DrawFigures, gallery, side_by_side
from stn_jax.report.run_report import write_report
from stn_jax.training import Config, train
from stn_jax.training.assemble import assemble
from stn_jax.training.evaluation import Predictions, predict, summarize
from stn_jax.training.export import PROGRAM, export_network
from stn_jax.warp import affine, affine_transform


def smooth(side):
    """An image ``[1, side, side, 1]`` of a few smooth blobs, dark at its edges."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    blobs = [(0.1, 0.05, 0.12), (-0.15, 0.1, 0.1), (0.0, -0.15, 0.1)]
    image = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s * s)) for a, b, s in blobs)
    return jnp.asarray(image, jnp.float32)[None, ..., None]


@pytest.mark.parametrize("corners", [True, False])
def test_poses_in_sequence_compose(tiny_config, corners):
    config = Config(**{**tiny_config, "variant": "stn-c0+c0", "align_corners": corners})
    run = assemble(config)
    # Without normalization, so that padding is dark.
    thetas = jnp.stack([affine.rotation(25.0), affine.translation(jnp.array([0.2, -0.1]))])
    details = Intermediates(thetas[:1], None, ((thetas[1:], None),))
    image = smooth(run.input_shape()[0])
    warped = image
    for theta in thetas:
        warped = affine_transform(warped, theta, align_corners=corners)
    first, second = run.poses(details)[0]
    together = affine_transform(image, affine.compose(first, second))
    np.testing.assert_allclose(together[0], warped[0], atol=0.05)  # resampled twice
    reversed_order = affine_transform(image, affine.compose(second, first))
    assert float(jnp.abs(reversed_order - warped).max()) > 0.2


def test_the_frame_of_a_later_map_is_that_of_what_came_before(tiny_config):
    """A pixel of the map after one block of the halved image, followed by hand."""
    values = {"task": "translated_mnist", "variant": "stn-c0+c1", "align_corners": False}
    run = assemble(Config(**{**tiny_config, **values}))
    half = 30  # the first transformer halves 60 pixels; 9x9 convolution, 22 positions; pooled, 11
    shift = jnp.eye(2, 3).at[0, 2].set(2 / 11)  # one position of the map
    details = Intermediates(jnp.eye(2, 3)[None], None, ((shift[None], None),))
    expected = [[1, 0, 2 * (2 / half)], [0, 1, 0]]  # two pixels of the halved image
    np.testing.assert_allclose(run.poses(details)[0, 1], expected, atol=1e-5)
    np.testing.assert_allclose(run.poses(details)[0, 0], jnp.eye(2, 3), atol=1e-5)


def test_views_of_transformers_in_parallel_are_continued(tiny_config):
    run = assemble(Config(**{**tiny_config, "variant": "stn-c0x2+c0"}))
    turns = [affine.rotation(angle)[None] for angle in (0.0, 90.0, 180.0)]
    (first, *rest), none = turns, None
    details = Intermediates(first, none, tuple((theta, none) for theta in rest))
    pictures = np.asarray(run.test.images[:1], np.float32) / 255
    seen = (pictures - run.data.mean) / run.data.deviation
    views = run.views(seen, details)
    expected = {
        "c0, 1 of 2": 0,
        "c0, 2 of 2": 1,
        "c0 of c0, 1 of 2": 2,
        "c0 of c0, 2 of 2": 3,
    }
    assert list(views) == list(expected)
    for name, quarter_turns in expected.items():
        rotated = np.rot90(pictures[0], quarter_turns)
        np.testing.assert_allclose(views[name][0], rotated, atol=1e-4)


def test_views_of_different_sizes_side_by_side():
    found = side_by_side({"a": np.ones((1, 4, 2, 1)), "b": np.full((1, 2, 3, 1), 0.5)})
    assert found.shape == (1, 4, 8, 1)
    np.testing.assert_array_equal(found[0, :, 2:, 0], np.full((4, 6), 0.5))
    assert side_by_side({}) is None


def test_each_transformer_has_numbers_of_its_own(tiny_config):
    run = assemble(Config(**{**tiny_config, "variant": "stn-c0+c1"}))
    angles = np.linspace(-80, 80, 10, dtype=np.float32)
    applied = np.asarray(affine.rotation(jnp.asarray(angles)))[None]
    poses = np.stack([affine.rotation(jnp.asarray(f * angles)) for f in (1, 0.5)], 1)[None, None]
    labels = np.arange(10) % 2
    result = summarize(
        run, Predictions(labels[None, None], np.ones((1, 1, 10)), poses, applied, labels)
    )
    first, (further,) = result["angle_slope"], result["further_poses"].values()
    np.testing.assert_allclose(np.abs(first), 1, atol=1e-5)
    np.testing.assert_allclose(further["angle_slope"], np.multiply(first, 0.5), atol=1e-5)
    assert list(result["further_poses"]) == ["c1"]
    np.testing.assert_allclose(further["window_share"], 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["stn-c0+c1", "stn-c0x2"])
def test_a_run_is_reported_restored_and_exported(tiny_config, tmp_path, variant):
    values = {"variant": variant, "epochs": 1, "test_passes": 1, "figures": True}
    config = Config(**{**tiny_config, **values})
    train(config, tmp_path, DrawFigures())
    for name in ("gallery.png", "angles.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")
    text = write_report(tmp_path)[1].read_text()
    run = assemble(config)
    for name in run.transformer_names:
        assert f"{name}: " in text
        assert f"Within-class RMS, {name}" in text
    model, variables, normalize = stn_jax.load_run(tmp_path)
    images = run.test.images[:4]
    logits = model.apply(variables, normalize(images))
    path = export_network(run, variables["params"], tmp_path / "exported")
    assert path.name == PROGRAM
    program = jax.export.deserialize(path.read_bytes())
    np.testing.assert_allclose(program.call(np.float32(images) / 255), logits, atol=1e-4)
    inputs, views = gallery(run, variables["params"])
    assert list(views) == run.transformer_names
    assert {view.shape for view in views.values()} == {inputs.shape}
    params = jax.tree.map(lambda x: x[None], variables["params"])
    assert predict(run, params, quiet=True).poses.shape[3:] == (2, 2, 3)
