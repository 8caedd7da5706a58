"""The report of a workdir: what is on the page, and that a browser shows it."""

import base64
import dataclasses
import html.parser
import io
import json
import re

import jax
import numpy as np
import pytest
from chromium import Chromium, find
from PIL import Image
from scipy import ndimage

from stn_jax.data import cache, house_numbers, sources
from stn_jax.report import page
from stn_jax.report import sweep as sweeping
from stn_jax.report.gallery import first_of_each_class
from stn_jax.report.run_report import report, sweep, write_report
from stn_jax.training import Config, train
from stn_jax.training.assemble import assemble
from stn_jax.training.config import ConfigError
from stn_jax.training.evaluation import predict
from stn_jax.training.restore import load


@pytest.fixture(scope="module")
def made(tiny_config, tmp_path_factory):
    """A trained workdir, its result, and its report; two seeds, four steps."""
    folder = tmp_path_factory.mktemp("report") / "run"
    config = Config(**tiny_config | {"epochs": 1, "log_every": 2, "seeds": (0, 1)})
    result = train(config, str(folder))
    return folder, result, write_report(folder)[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in STN_JAX_CHROMIUM")
    with Chromium(program, tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


def sweep_of(path):
    """The data that the slider runs over."""
    text = path.read_text()
    return json.loads(re.search(r'id="sweep-data">(.*?)</script>', text, re.S)[1])


def frames(uri, count):
    """The frames of a strip: ``[F, H, W]``, uint8."""
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    return strip.reshape(count, -1, strip.shape[1])


class Reader(html.parser.HTMLParser):
    """Gathers tags, addresses and text; texts of scripts and styles apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self._inside = [], [], [], ""
        self.attributes = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._inside = tag
        self.attributes += attributes
        self.addresses += [v for k, v in attributes if k in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text.append(data)


# --- what is on the page -----------------------------------------------------------------------


def test_the_page_says_what_the_result_says(made):
    _, result, path = made
    text = " ".join(Reader(path.read_text()).text)
    assert f"{result['mean']:.2f} % \N{PLUS-MINUS SIGN} {result['ci95']:.2f}" in text
    assert ", ".join(f"{e:.2f}" for e in result["test_error_percent"]) in text
    assert f"{np.mean(result['angle_slope']):.2f}" in text
    assert f"Slope {result['angle_slope'][0]:.2f}" in text
    for name, value in result["versions"].items():
        assert name in text
        assert value in text
    for section in ("Rotate a digit", "Gallery", "Angles", "Training", "Confusion", "Hardest"):
        assert section in text
    for name in Config().to_dict():
        assert name in text


def test_the_confusion_matrix_holds_every_prediction_and_its_diagonal_the_error(made):
    _, result, path = made
    said = re.findall(r'title="(\d) read as (\d): ([\d,]+) of ([\d,]+)"', path.read_text())
    counts = np.zeros((10, 10))
    for true, other, count, _ in said:
        counts[int(true), int(other)] = int(count.replace(",", ""))
    assert counts.sum() == 2 * 2 * result["test_examples"]
    wrong = 100 * (1 - np.trace(counts) / counts.sum())
    assert wrong == pytest.approx(result["mean"], abs=1e-3)


def test_the_page_needs_nothing_else(made):
    reader = Reader(made[2].read_text())
    assert reader.addresses
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert "default-src 'none'" in made[2].read_text()


def test_a_digit_turns_counter_clockwise_from_end_to_end(made):
    data = sweep_of(made[2])
    values = data["values"]
    assert (values[0], values[-1], len(values)) == (-90, 90, 61)
    for example in data["examples"]:
        inputs = frames(example["input"], len(values)).astype(int)
        upright = inputs[values.index(0)]
        for value, turns in ((90, 1), (-90, -1)):
            difference = inputs[values.index(value)] - np.rot90(upright, turns)
            assert np.abs(difference).max() <= 1


def test_the_slider_shows_the_networks_predictions(made):
    folder, _, path = made
    data = sweep_of(path)
    run, state = load(folder)
    params = jax.tree.map(lambda x: x[0], state["params"])
    digits = first_of_each_class(run.test.labels, run.test.images)[..., 0] / 255
    for digit, example in zip(digits[2:5], data["examples"][2:5], strict=True):
        turned = [
            ndimage.rotate(digit, value, reshape=False, order=1, mode="grid-constant")
            for value in data["values"]
        ]
        seen = (np.float32(turned)[..., None] - run.data.mean) / run.data.deviation
        logits, details = run.apply(params, seen)
        for name, pictures in (
            ("input", run.denormalize(seen)),
            ("aligned", run.aligned(seen, details)),
        ):
            found = frames(example[name], len(data["values"])) / 255
            # Half a shade from 256 of them, and the rounding of float32.
            np.testing.assert_allclose(found, pictures[..., 0], rtol=0, atol=0.6 / 255)
        theta = np.asarray(details.theta, np.float64)
        angle = -np.degrees(
            np.arctan2(theta[:, 0, 1] - theta[:, 1, 0], theta[:, 0, 0] + theta[:, 1, 1])
        )
        np.testing.assert_allclose(example["read"], angle, atol=2e-3)
        probability = np.asarray(jax.nn.softmax(logits))
        np.testing.assert_allclose(example["confidence"], probability.max(-1), atol=2e-4)
        said = probability[np.arange(61), [int(text) for text in example["said"]]]
        np.testing.assert_allclose(said, probability.max(-1), atol=2e-4)


@pytest.mark.thin("translated_mnist")
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
    np.testing.assert_allclose(data.read, 0 if task == "translated_mnist" else 1, atol=1e-5)


def test_a_network_without_a_transformer_has_no_aligned_pictures(tiny_config, tmp_path, browser):
    run = assemble(Config(**tiny_config | {"variant": "cnn", "test_passes": 3}))
    few = sources.Split(run.test.images[:3], run.test.labels[:3])
    run = dataclasses.replace(run, test=few)
    params = run.init_state()["params"]
    predictions = predict(run, params, quiet=True)
    text = page.render(report(run, params, 0, predictions, []))
    path = tmp_path / "report.html"
    path.write_text(text)
    assert "Gallery</h2>" not in text
    assert "Angles</h2>" not in text
    assert "Training</h2>" not in text
    assert "aligned" not in sweep_of(path)["examples"][0]
    error = 100 * (predictions.classes != predictions.labels).mean()
    assert f"{error:.2f} %" in text
    assert "One seed, so no interval over seeds" in text
    browser.events.clear()
    browser.view(1200, 900)
    browser.open(path)
    browser.until("document.getElementById('sweep-said').textContent.includes('It reads')")
    assert_no_complaints(browser)


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
    assert found.sweep.said[0][middle] == first
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
    none = dict(re.findall(r'title="(\w+) read as none: (\d+) ', text))
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
        title=hostile,
        about=hostile,
        tiles=[page.Tile(hostile, hostile, hostile)],
        sweep=sweep,
        curves=[page.Curve(hostile, [[(0, 1.0), (1, 2.0)]])],
        gallery=(digits, digits),
        angles=page.Angles(angles, -angles, angles.astype(int)),
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
    # As texts they are whole: 3 above, 3 in a tile, 2 of the slider, 1 of a curve, 2 in the matrix,
    # 2 of an image, 3 of the configuration, 2 below.
    assert "\n".join(reader.text).count(hostile) == 18
    # As attributes too: of the thumbnail, the slider, a cell, and the pictures of two charts.
    labels = [value for name, value in reader.attributes if name in ("aria-label", "title")]
    assert [value for value in labels if hostile in value] == [
        *(hostile, hostile, hostile, hostile),
        f"{hostile} read as {hostile}: 1 of 1",
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
        "t", "a", [], sweep, [], None, None, np.ones((1, 1), int), [], {}, {}, {}, ["0"]
    )
    text = page.render(report)
    assert '"read": [null, null, 1.0]' in text


def test_a_file_that_cannot_be_written_is_named(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*file/report.html: .*name another file"):
        write_report(made[0], tmp_path / "file" / "report.html")


# --- what a browser makes of it ----------------------------------------------------------------

PIXELS = """Array.from(document.getElementById('sweep-%s').getContext('2d')
 .getImageData(0, 0, 28, 28).data).filter((_, i) => i %% 4 === 0)"""


def canvas(browser, name):
    return np.array(browser.run(PIXELS % name)).reshape(28, 28)


def assert_no_complaints(browser):
    said = [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"]
    said += [
        event
        for event in browser.events
        # The tests read the canvas back, for which Chromium would have another setting.
        if event["method"] == "Log.entryAdded" and "willReadFrequently" not in str(event)
    ]
    assert said == []
    urls = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert urls
    assert all(url.startswith(("file:", "data:")) for url in urls)


@pytest.fixture
def shown(made, browser):
    """The page in a window of a desktop, with its pictures drawn."""
    browser.events.clear()
    browser.view(1200, 900)
    browser.open(made[2])
    browser.until("[...document.images].every(image => image.complete)")
    browser.until("document.getElementById('sweep-said').textContent.includes('It reads')")
    return browser


def test_the_slider_moves_both_pictures_frame_by_frame(made, shown):
    data = sweep_of(made[2])
    example = data["examples"][2]
    strips = {name: frames(example[name], 61) for name in ("input", "aligned")}
    shown.run("document.getElementById('sweep').focus()")
    shown.press("Home")
    seen = []
    for i in range(61):
        assert shown.run("document.getElementById('sweep').value") == str(i)
        for name, strip in strips.items():
            np.testing.assert_array_equal(canvas(shown, name), strip[i])
        said = shown.run("document.getElementById('sweep-said').textContent")
        sign = "+" if i > 30 else "\N{MINUS SIGN}" if i < 30 else ""
        assert said.startswith(f"Rotated by {sign}{abs(-90 + 3 * i)}\N{DEGREE SIGN}.")
        assert f"It reads {example['said'][i]} " in said
        seen.append(canvas(shown, "input"))
        shown.press("ArrowRight")
    assert len({frame.tobytes() for frame in seen}) == 61
    assert_no_complaints(shown)


def test_another_digit_is_chosen_by_a_click(made, shown):
    data = sweep_of(made[2])
    place = shown.run(
        "(() => { const r = document.querySelectorAll('.digits button')[7]"
        ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        shown.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=place[0],
            y=place[1],
            button="left",
            clickCount=1,
        )
    shown.until("document.querySelectorAll('.digits button')[7].ariaPressed === 'true'")
    at = int(shown.run("document.getElementById('sweep').value"))
    strip = frames(data["examples"][7]["aligned"], 61)
    np.testing.assert_array_equal(canvas(shown, "aligned"), strip[at])


def test_play_runs_to_the_end_and_stops(shown):
    shown.run("document.getElementById('sweep').value = 57")
    shown.run("document.getElementById('sweep-play').click()")
    assert shown.run("document.getElementById('sweep-play').textContent") == "Stop"
    shown.until("document.getElementById('sweep-play').textContent === 'Play'")
    assert shown.run("document.getElementById('sweep').value") == "60"
    said = shown.run("document.getElementById('sweep-said').textContent")
    assert said.startswith("Rotated by +90")


@pytest.mark.thin("320")
@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(made, browser, width):
    browser.view(width, 800)
    browser.open(made[2])
    assert browser.run("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('p, h2, button, figcaption, dd')]"
    sizes = browser.run(f"{small}.map(e => parseFloat(getComputedStyle(e).fontSize))")
    assert min(sizes) >= 13
    # Nothing hangs over the edge of the page either, inside of a box that hides it.
    wide = browser.run(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && "
        f"e.getBoundingClientRect().right > {width}).length"
    )
    assert wide == 0
    targets = browser.run(
        "[...document.querySelectorAll('button, input')]"
        ".map(e => e.getBoundingClientRect()).map(r => Math.min(r.width, r.height))"
    )
    assert min(targets) >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(made, browser, scheme):
    browser.view(1200, 900, scheme=scheme)
    browser.open(made[2])
    ground = luminance(browser, "document.querySelector('section')", "backgroundColor")
    for element in ("h2", ".muted", "figcaption", "dt", "td.hit"):
        ink = luminance(browser, f"document.querySelector('section {element}')", "color")
        low, high = sorted((ink, ground))
        # WCAG 2.1, 1.4.3: at least 4.5 to 1.
        assert (high + 0.05) / (low + 0.05) >= 4.5, element
    assert (ground < 0.1) == (scheme == "dark")


def luminance(browser, element, what):
    """Relative luminance (WCAG 2.1) of an element's color."""
    text = browser.run(f"getComputedStyle({element}).{what}")
    rgb = np.array([float(x) for x in re.findall(r"[\d.]+", text)[:3]]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
