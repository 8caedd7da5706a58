"""What a report is made of: other tasks, house numbers, hostile texts, numbers that are none."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from reader import Reader

from stn_jax.data import cache, house_numbers, sources
from stn_jax.report import page
from stn_jax.report import sweep as sweeping
from stn_jax.report.run_report import report, sweep
from stn_jax.training import Config
from stn_jax.training.assemble import assemble
from stn_jax.training.evaluation import predict


@pytest.mark.slow
@pytest.mark.parametrize("task", ["translated_mnist", "scaled_mnist"])
def test_other_tasks_run_through_their_own_distortion(tiny_config, task):
    run = assemble(Config(**tiny_config | {"task": task, "variant": "stn-c0"}))
    few = sources.Split(run.test.images[:2], run.test.labels[:2])
    params = jax.tree.map(lambda x: x[0], run.init_state()["params"])
    data = sweep(dataclasses.replace(run, test=few), params)
    inputs = data.inputs[0, ..., 0]
    mass = inputs.sum((1, 2))
    if task == "translated_mnist":
        assert inputs.shape[1:] == (60, 60)
        assert (data.values[0], data.values[-1]) == (-16, 16)
        center = (inputs * np.arange(60)).sum((1, 2)) / mass
        np.testing.assert_allclose(center - center[16], data.values, atol=0.01)
    else:
        assert inputs.shape[1:] == (112, 112)
        assert (data.values[0], data.values[-1]) == (0.5, 4)
        np.testing.assert_allclose(mass / mass[20], data.values**2, rtol=0.02)
    # Untrained, the transformer looks at all of it, straight.
    np.testing.assert_allclose(data.pose, 0 if task == "translated_mnist" else 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.thin("numbers")
@pytest.mark.parametrize("dataset", ["numbers", "drawn"])
def test_house_numbers_are_read_as_numbers(dataset, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 64, 64, 3), np.uint8)
    numbers = [rng.integers(0, 10, 1 + i % 5).tolist() for i in range(12)]
    labels = np.stack([house_numbers.labels_of(number) for number in numbers])
    if dataset == "numbers":
        both = {split: (12, [(images, labels)]) for split in ("train", "test")}
        cache.write(tmp_path / "numbers", "numbers", "1.0.0", 11, both)
    else:
        split = sources.Split(labels.astype(np.uint8), labels)

        def draw(keys, stored):  # the same whatever the key
            shade = jax.numpy.repeat(stored / 10.0, 13, axis=-1)[:, None, :64, None]
            return jax.numpy.broadcast_to(shade, (len(stored), 64, 64, 3))

        source = sources.Source("drawn", "1.0.0", 11, split, split, draw=draw)
        monkeypatch.setattr(sources, "load", lambda *_, **__: source)
    monkeypatch.setattr(sweeping, "_MAX_EXAMPLES", 3)
    turn = sweeping._DISTORTIONS["svhn"]
    few = dataclasses.replace(turn, values=lambda side, canvas: np.array([-45.0, 0.0, 45.0]))
    monkeypatch.setitem(sweeping._DISTORTIONS, "svhn", few)
    config = Config(
        task="svhn",
        variant="stn-c3",
        dataset=dataset,
        cache_dir=str(tmp_path),
        width=1 / 48,
        batch_size=4,
        crop=54,
        test_passes=1,
    )
    run = assemble(config)
    params = run.init_state()["params"]
    predictions = predict(run, params, quiet=True)
    found = report(run, params, 0, predictions, [])
    said = predictions.classes[0, 0]
    first = "".join(str(c) for c in said[0] if c != 10) or "no digits"
    assert found.sweep.labels == ["".join(map(str, number)) for number in numbers[:3]]
    middle = list(found.sweep.values).index(0)
    assert found.sweep.predicted[0][middle] == first
    assert found.sweep.inputs.shape == (3, 3, 54, 54, 3)
    if dataset == "numbers":
        crop = images[0, 5:59, 5:59] / 255
        np.testing.assert_allclose(found.sweep.inputs[0, middle], crop, atol=1e-3)
    wrong = (said != labels).any(-1)
    assert len(found.hardest) == wrong.sum()
    assert sorted(int(case.note.rpartition(" ")[2]) for case in found.hardest) == list(
        np.flatnonzero(wrong)
    )
    assert found.confusion.sum() == 60
    assert found.confusion.trace() == (said == labels).sum()
    text = page.render(found)
    assert f"{100 * wrong.mean():.2f} %" in text
    none = dict(re.findall(r'title="(\w+) predicted as none: (\d+) ', text))
    expected = [((labels == true) & (said == 10)).sum() for true in range(11)]
    assert none == {
        "none" if true == 10 else str(true): str(count)
        for true, count in enumerate(expected)
        if count
    }
    assert "Rotate a number" in text


@pytest.mark.slow
def test_the_alignment_of_translated_digits_is_reported(tiny_config):
    values = {"task": "translated_mnist", "variant": "stn-c0", "test_passes": 2}
    run = assemble(Config(**tiny_config | values))
    few = sources.Split(run.test.images[:6], run.test.labels[:6])
    run = dataclasses.replace(run, test=few)
    params = run.init_state()["params"]
    predictions = predict(run, params, quiet=True)
    tiles = {tile.name: tile.value for tile in report(run, params, 0, predictions, []).tiles}
    # The window stays in the middle, so that digits keep the distance at which they were put: of
    # each the deviation over two passes.
    centres = -30 * predictions.applied[..., 2] / predictions.applied[..., 0, 0, None]
    within = np.sqrt(((centres[0] - centres[1]) ** 2).sum(-1).mean() / 2)
    assert [float(slope) for slope in tiles["Slope of positions"].split(", ")] == [0, 0]
    assert tiles["Within-digit RMS"] == f"{within:.2f} px"
    assert tiles["Within-class RMS"].endswith(" px")


def test_texts_cannot_become_markup():
    hostile = "</script><script>alert(1)</script><b>&amp;\"'{{ 1 }}]]>"
    digits = np.zeros((1, 3, 4, 4, 1))
    flat = np.zeros((1, 3))
    sweep = page.Sweep(
        *[hostile] * 5,
        *(np.arange(3.0), [hostile], digits, digits, flat, [[hostile] * 3], flat, np.arange(3.0)),
    )
    angles = np.arange(3.0)
    report = page.Report(
        warnings=[hostile],
        title=hostile,
        about=hostile,
        tiles=[page.Tile(hostile, hostile, hostile)],
        sweep=sweep,
        curves=[page.Curve(hostile, [[(0, 1.0), (1, 2.0)]])],
        gallery=(digits, {"aligned": digits}),
        angles=[page.Angles(angles, -angles, angles.astype(int))],
        confusion=np.ones((1, 1), int),
        hardest=[page.Hard(hostile, hostile, digits[0, 0], None)],
        config={hostile: hostile, "list": [hostile]},
        defaults={},
        made_with={hostile: hostile},
        names=[hostile],
    )
    text = page.render(report)
    reader = Reader(text)
    assert "b" not in reader.tags[reader.tags.index("section") :]
    assert reader.tags.count("script") == 2
    # As texts they are whole: 3 above, a warning, 3 in a tile, 2 of the slider, 1 of a curve, 2 in
    # the matrix, 2 of an image, 3 of the configuration, 2 below.
    assert "\n".join(reader.text).count(hostile) == 19
    # As attributes too: of the thumbnail, the slider, a cell, and the pictures of two charts.
    labels = [value for name, value in reader.attributes if name in ("aria-label", "title")]
    assert [value for value in labels if hostile in value] == [
        *(hostile, hostile, hostile, hostile),
        f"{hostile} predicted as {hostile}: 1 of 1",
    ]
    store = json.loads(re.search(r'id="sweep-data">(.*?)</script>', text, re.S)[1])
    assert store["examples"][0]["label"] == store["applied"] == hostile
    for raw in ("<script>alert", "<b>&amp;\"'"):
        assert raw not in text


def test_numbers_that_are_not_finite_stand_on_the_page_as_such():
    digits = np.zeros((1, 3, 4, 4, 1))
    read = np.array([[np.nan, np.inf, 1.0]])
    sweep = page.Sweep(
        *["x"] * 5,
        *(np.arange(3.0), ["0"], digits, digits, read, [["0"] * 3], read),
        None,
    )
    report = page.Report(
        "t", "a", [], sweep, [], None, [], np.ones((1, 1), int), [], {}, {}, {}, ["0"]
    )
    text = page.render(report)
    assert '"pose": [null, null, 1.0]' in text
