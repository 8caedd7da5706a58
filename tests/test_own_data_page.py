"""docs/own_data.md, command by command, on digits that are written as pictures."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stn_jax.cli.eval import main as stn_eval
from stn_jax.cli.train import main as stn_train
from stn_jax.data import sources

PAGE = Path(__file__).parents[1] / "docs" / "own_data.md"
NAMES = {2: "two", 7: "seven"}
# What makes the page's trainings small.
SMALLER = ["--config.epochs=1", "--config.width=0.125", "--config.test_passes=1"]


def write_pictures(folder, count=20):
    split = sources.load("mnist_sample").train
    for label, name in NAMES.items():
        (folder / name).mkdir(parents=True)
        chosen = split.images[split.labels == label][:count, ::2, ::2, 0]  # 14x14
        for i, image in enumerate(np.asarray(chosen), 1):
            Image.fromarray(image).save(folder / name / f"{i:04}.png")


@pytest.mark.slow
def test_the_page_works_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STN_JAX_CACHE", str(tmp_path / "cache"))
    write_pictures(tmp_path / "pictures")
    names: dict = {}
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    commands = 0
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, PAGE.name, "exec"), names)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "stn-train":
                assert stn_train([*arguments, *SMALLER]) == 0, line
            else:
                assert program == "stn-eval"
                assert stn_eval(arguments) == 0, line
            commands += 1
    assert commands == 9
    out = capsys.readouterr().out
    # All of a run of the same network is taken.
    assert re.search(r"init_from runs/mine: (\d+) of \1 parameter arrays taken\n(?!  new)", out)
    assert names["names"] == ["seven", "two"]
    page = (tmp_path / "runs" / "mine" / "report.html").read_text()
    for name in NAMES.values():
        assert f'scope="row">{name}</th>' in page
    assert re.search(r"pictures/seven/0001.png: (seven|two) \(", out)
    about = json.loads((tmp_path / "served" / "about.json").read_text())
    assert about["class_names"] == ["seven", "two"]
    assert names["logits"].shape == (4, 5)
