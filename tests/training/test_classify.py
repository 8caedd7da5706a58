"""What is said of a user's pictures, and what speaks against it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from stn_jax.data import sources
from stn_jax.report.user_images import classify_files_pretrained
from stn_jax.training.classify import Classification, probability_doubts, top_two

NETWORK = "rotated_mnist/stn-sl1"


def said(labels):
    return "".join(map(str, labels))


def test_the_two_likeliest_numbers_are_those_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        probability = rng.dirichlet(np.ones(4), 3).astype(np.float32)
        joint = np.einsum("a,b,c->abc", *probability)
        order = np.argsort(joint.ravel())[::-1]
        for (labels, sure), index in zip(top_two(probability), order, strict=False):
            assert tuple(labels) == np.unravel_index(index, joint.shape)
            np.testing.assert_allclose(sure, joint.ravel()[index], rtol=1e-5)


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        ([[0.05, 0.9, 0.05]], ()),
        ([[0.1, 0.5, 0.4]], ("1 and 2 (40.0 %) are close",)),
        ([[0.25, 0.55, 0.2]], ("the network is not sure",)),
        ([[0.0, 1.0, 0.0], [0.55, 0.0, 0.45]], ("10 and 12 (45.0 %) are close",)),
        ([[0.0, 1.0, 0.0]], ()),
    ],
)
def test_doubts_in_words(probability, expected):
    assert probability_doubts(np.array(probability), said) == expected


def test_an_answer_is_a_line_and_ready_for_json():
    answer = Classification("a.png", "7", 0.5, "1", 0.4, ("x", "y"), (0.0, 0.0, 2.0, 2.0), 3.2)
    assert str(answer) == "a.png: 7 (50.0 %), rotated by +3 degrees; doubtful: x; y"
    assert json.loads(json.dumps(answer._asdict()))["doubts"] == ["x", "y"]
    assert str(answer._replace(doubts=(), degrees=None)) == "a.png: 7 (50.0 %)"


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Of digits in light that falls off by half, with a speck; of noise; and of a patch."""
    folder = tmp_path_factory.mktemp("photographs")
    test = sources.load("mnist_sample").test
    pages = {}
    for i in range(1000, 1006):
        page = np.full((144, 160), 235.0)
        large = np.asarray(Image.fromarray(test.images[i, ..., 0]).resize((112, 112)))
        page[20:132, 30:142] -= large * (195 / 255)
        page *= np.linspace(1, 0.5, 160)
        page[140, 3] = 0
        pages[f"{test.labels[i]} of {i}.jpg"] = page
    pages["noise.png"] = 200 + np.random.default_rng(0).normal(0, 10, (120, 120))
    pages["patch.png"] = np.full((120, 120), 235)
    pages["patch.png"][40:70, 40:75] = 40
    files = [folder / name for name in pages]
    for file, page in zip(files, pages.values(), strict=True):
        Image.fromarray(np.clip(page, 0, 255).astype(np.uint8)).convert("RGB").save(file)
    picture = folder / "images.png"
    return files, classify_files_pretrained(NETWORK, files, picture), picture


def test_photographs_in_uneven_light_are_read(answered):
    files, answers, picture = answered
    for answer, file in zip(answers[:6], files[:6], strict=True):
        assert answer.file == str(file)
        assert answer.label == file.name[0]
        assert answer.doubts == ()
        left, top, right, bottom = answer.box
        assert 30 <= left < right <= 142
        assert 20 <= top < bottom <= 132
        assert answer.probability > 2 * answer.runner_up_probability > 0
        assert answer.label != answer.runner_up
    with Image.open(picture) as drawn:
        assert drawn.width > 600


def test_images_without_a_digit_are_doubted(answered):
    noise, patch = map(str, answered[1][6:])
    assert re.search(r"noise.png: \d .*; doubtful: .*no digit stands out from the page", noise)
    assert re.search(r"patch.png: \d .*; doubtful: .*a patch rather than strokes", patch)
