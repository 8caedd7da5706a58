"""The report of a workdir: what is on the page, and that a browser shows it."""

import base64
import dataclasses
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
from chromium import Chromium, find
from PIL import Image
from reader import Reader
from scipy import ndimage

from stn_jax.data import sources
from stn_jax.report import page
from stn_jax.report.gallery import first_of_each_class
from stn_jax.report.run_report import report, write_report
from stn_jax.training import Config
from stn_jax.training.assemble import assemble
from stn_jax.training.config import ConfigError
from stn_jax.training.evaluation import predict
from stn_jax.training.restore import load


@pytest.fixture(scope="module")
def made(trained_run, tmp_path_factory):
    """A trained workdir, its result, and its report; two seeds, four steps."""
    folder = shutil.copytree(trained_run, tmp_path_factory.mktemp("report") / "run")
    return folder, json.loads((folder / "result.json").read_text()), write_report(folder)[1]


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
    said = re.findall(r'title="(\d) predicted as (\d): ([\d,]+) of ([\d,]+)"', path.read_text())
    counts = np.zeros((10, 10))
    for true, other, count, _ in said:
        counts[int(true), int(other)] = int(count.replace(",", ""))
    assert counts.sum() == 2 * 2 * result["test_examples"]  # of two seeds, in two passes
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
        np.testing.assert_allclose(example["pose"], angle, atol=2e-3)
        probability = np.asarray(jax.nn.softmax(logits))
        np.testing.assert_allclose(example["confidence"], probability.max(-1), atol=2e-4)
        said = probability[np.arange(61), [int(text) for text in example["predicted"]]]
        np.testing.assert_allclose(said, probability.max(-1), atol=2e-4)


@pytest.mark.slow
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
    browser.until("document.getElementById('sweep-output').textContent.includes('Predicted:')")
    assert_no_complaints(browser)


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
    browser.until("document.getElementById('sweep-output').textContent.includes('Predicted:')")
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
        said = shown.run("document.getElementById('sweep-output').textContent")
        sign = "+" if i > 30 else "\N{MINUS SIGN}" if i < 30 else ""
        assert said.startswith(f"Rotated by {sign}{abs(-90 + 3 * i)}\N{DEGREE SIGN}.")
        assert f"Predicted: {example['predicted'][i]} " in said
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
    said = shown.run("document.getElementById('sweep-output').textContent")
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
