"""What is made of a transform after training, where it is not affine."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax.models import Intermediates
from stn_jax.report.gallery import DrawFigures
from stn_jax.report.user_images import classify_files, picture_path
from stn_jax.training import Config, train
from stn_jax.training.assemble import assemble
from stn_jax.training.evaluation import predict, summarize
from stn_jax.warp import affine, affine_grid

# A quarter turn, as each family's theta has it.
QUARTER = affine.rotation(90.0)
REPEATS = {
    "affine": QUARTER,
    "projective": 2 * jnp.concatenate([QUARTER, jnp.array([[0, 0, 1.0]])]),
    "tps": affine_grid(QUARTER, (4, 4), align_corners=True),
}


@pytest.mark.slow
def test_a_network_of_splines_is_trained_evaluated_and_shown(tiny_config, tmp_path, digit_file):
    values = {"transform": "tps", "variant": "stn-c1", "epochs": 1, "test_passes": 1}
    config = Config(**{**tiny_config, **values, "figures": True})
    result = train(config, str(tmp_path), DrawFigures())
    assert result["config"]["transform"] == "tps"
    assert np.isfinite(result["angle_spread_degrees"] + result["angle_slope"]).all()
    for name in ("gallery.png", "angles.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")
    (answer,) = classify_files(tmp_path, [digit_file])
    line = str(answer)
    said = r"digit.jpg: \d \([\d.]+ %\), rotated by [+-]\d+ degrees(; doubtful: .+)?$"
    assert re.search(said, line)
    assert picture_path(tmp_path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("transform", REPEATS)
def test_a_familys_transforms_are_drawn_and_read_correctly(tiny_config, transform):
    run = assemble(Config(**{**tiny_config, "variant": "stn-c1", "transform": transform}))
    pictures = np.asarray(run.test.images[:3], np.float32) / 255
    seen = (pictures - run.data.mean) / run.data.deviation
    details = Intermediates(jnp.stack([REPEATS[transform]] * 3), jnp.zeros((3, 10, 10, 4)))
    turned = run.aligned(seen, details)
    np.testing.assert_allclose(turned, np.rot90(pictures, axes=(1, 2)), rtol=0, atol=1e-4)
    np.testing.assert_allclose(affine.angle(run.pose(details)), [90] * 3, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "pixels", "corners"),
    [
        ("stn-c0", 59 / 60, True),
        ("stn-c0", 1, False),
        ("stn-c1", 50 / 60, True),
        ("stn-c1", 52 / 60, False),
    ],
)
def test_a_pose_is_in_the_images_coordinates_whatever_map_was_warped(
    tiny_config, variant, pixels, corners
):
    values = {"task": "translated_mnist", "variant": variant, "align_corners": corners}
    run = assemble(Config(**{**tiny_config, **values}))
    # STN-C1's map has 26 positions, 2 pixels apart, in the middle of 60 pixels; from the first to
    # the last, where corners count, are 50 pixels, and from edge to edge 52.
    thetas = jnp.stack(
        [affine.identity(), affine.translation(jnp.array([0.2, -0.1])), affine.scaling(0.5)]
    )
    warped = jnp.zeros((3, 30, 30, 4))
    inside = jax.jit(lambda thetas: run.pose(Intermediates(thetas, warped)))(thetas)
    poses = run.pose(Intermediates(thetas, warped))
    np.testing.assert_allclose(inside, poses, atol=1e-6)
    np.testing.assert_allclose(poses[0], affine.identity(), atol=1e-6)
    np.testing.assert_allclose(affine.shift(poses[1]), pixels * np.array([0.2, -0.1]), atol=1e-6)
    np.testing.assert_allclose(poses[2], affine.scaling(0.5), atol=1e-6)


@pytest.mark.slow
def test_the_report_of_translated_digits(tiny_config):
    values = {"task": "translated_mnist", "variant": "stn-c1", "test_passes": 2}
    run = assemble(Config(**{**tiny_config, **values}))
    result = summarize(run, predict(run, run.init_state()["params"], quiet=True))
    # Untrained, the window stays where it is, and digits are where they were put: each coordinate
    # uniform over 33 places.
    assert result["window_share"] == [pytest.approx(1, abs=1e-5)]
    uniform = 2 * (33**2 - 1) / 12
    for name in ("place_spread_pixels", "place_spread_within_pixels"):
        assert result[name] == [pytest.approx(uniform**0.5, rel=0.2)]
    assert result["place_slope_x"] + result["place_slope_y"] == pytest.approx([0, 0], abs=1e-5)
    assert not {"angle_slope", "scale_slope"} & set(result)


def test_a_plain_classifier_has_no_pose(tiny_config):
    run = assemble(Config(**{**tiny_config, "variant": "cnn"}))
    assert run.pose(Intermediates(None, jnp.zeros((1, 28, 28, 1)))) is None
