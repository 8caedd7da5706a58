"""Figure 1 and the plot of equivariance by depth: what is drawn is what was measured."""

import numpy as np
import pytest

from stn_jax.analysis.equivariance import EquivarianceError
from stn_jax.report import figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    saved = []
    save = figures._save
    monkeypatch.setattr(
        figures, "_save", lambda figure, path: (saved.append(figure), save(figure, path))
    )
    return saved


@pytest.mark.slow
def test_figure_1_shows_maps_in_other_channels(tmp_path, drawn):
    path = tmp_path / "new" / "figure1.png"
    figures.w_and_m(path, side=32)
    assert path.read_bytes().startswith(b"\x89PNG")
    shown = np.array([axis.images[0].get_array()[:30, :30] for axis in drawn[0].axes], object)
    shown = shown.reshape(3, 5, 30, 30).astype(float)
    np.testing.assert_allclose(shown[2, 0], shown[0, 0], atol=1e-5)
    # To the right and to the left, to the top and to the bottom have changed places.
    np.testing.assert_allclose(shown[2, [3, 4, 1, 2]], shown[0, 1:], atol=1e-5)
    captions = [axis.get_xlabel() for axis in drawn[0].axes[-5:]]
    assert captions[0] == "relative error 0.00"
    assert min(float(each.split()[-1]) for each in captions[1:]) > 1.3


def test_the_plot_by_depth_shows_medians_of_valid_positions(tmp_path, drawn):
    rng = np.random.default_rng(0)

    def made(depths):
        error = rng.uniform(0.1, 1, (depths, 3, 4))
        error[-1] = np.nan
        return EquivarianceError(
            tuple(map(str, range(depths))), error, error / 2, np.ones((depths, 3))
        )

    results = {
        "cnn": {"rotation": made(3), "scaling": made(3)},
        "stn": {"rotation": made(4), "scaling": made(4)},
    }
    path = tmp_path / "depth.png"
    figures.equivariance_plot(results, path, "By depth")
    assert path.read_bytes().startswith(b"\x89PNG")
    for axis, family in zip(drawn[0].axes, ("rotation", "scaling"), strict=True):
        assert (axis.get_title(), axis.get_xlabel()) == (family, "depth")
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "1", "2", "3"]
        for container, result in zip(axis.containers, results.values(), strict=True):
            heights = container.lines[0].get_ydata()
            medians = [np.median(each) for each in result[family].error]
            np.testing.assert_allclose(heights, medians)
            assert np.isnan(heights[-1])


def test_a_failed_figure_leaves_the_previous_one(tmp_path, monkeypatch):
    path = tmp_path / "figure1.png"
    path.write_bytes(b"previous")

    def full_disk(self, file, **kwargs):
        file.write(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures.Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        figures.w_and_m(path, side=8)
    assert path.read_bytes() == b"previous"
    assert [each.name for each in tmp_path.iterdir()] == ["figure1.png"]
