"""The page on performance, from made-up results."""

import json
import re

import pytest

from benchmarks import render


def line(benchmark, row, case, seconds=None, values=None, device="x86_64 CPU, 2 cores", day=1):
    """A made-up line; seconds by side."""
    times = {
        s: {"seconds": t, "quartiles": [t, t], "rounds": 3} for s, t in (seconds or {}).items()
    }
    return {
        "benchmark": benchmark,
        "row": row,
        "case": case,
        "times": times,
        "values": values or {},
        "device": device,
        "cpu": "Some CPU",
        "cores": 2,
        "commit": "abc",
        "dirty": False,
        "versions": {"jax": "1"},
        "options": {},
        "date": f"2026-01-{day:02}T00:00:00+00:00",
    }


MNIST = {
    "task": "rotated_mnist",
    "variant": "cnn",
    "seeds": 1,
    "distorted": False,
    "dtype": "float32",
}
GPU = {"device": "NVIDIA H100"}


class TestGoals:
    @pytest.mark.parametrize(
        ("found", "met"),
        [
            (line("warp", "r", {}, {"stn_jax": 1, "torch": 1, "dm_pix": 3}), [True]),
            (line("warp", "r", {}, {"stn_jax": 1, "torch": 2, "dm_pix": 0.9}), [False]),
            (line("warp", "r", {}, {"stn_jax": 1, "torch": 2, "dm_pix": 0.9}, **GPU), [True]),
            (line("warp", "r", {}, {"stn_jax": 1}), []),
            (line("warp", "r", {}, {"stn_jax": 1}, {"temporary memory": 2.1}), [False]),
            (line("step", "r", MNIST, {"stn_jax": 1, "torch": 1, "flax": 3}), [True, True]),
            (
                line("step", "r", MNIST, {"stn_jax": 1, "torch": 2, "torch channels last": 0.9}),
                [False],
            ),
            (line("step", "r", MNIST, {"stn_jax": 1, "flax": 2.9}), [False]),
            (line("step", "r", {**MNIST, "distorted": True}, {"with": 1, "without": 2}), []),
            (
                line(
                    "step", "r", {**MNIST, "seeds": 5}, {"stn_jax": 1, "torch compiled": 1.4}, **GPU
                ),
                [False],
            ),
            (
                line(
                    "step",
                    "r",
                    {**MNIST, "task": "svhn"},
                    {"stn_jax": 1, "torch compiled": 1.4},
                    **GPU,
                ),
                [True],
            ),
            (line("pipeline", "r", {}, None, {"fraction outside the network": 0.04}), [False]),
            (line("startup", "r", {"start": "warm"}, {"stn_jax": 10.5}), [False]),
            (line("startup", "r", {"start": "cold"}, {"stn_jax": 99}), []),
            (line("startup", "r", {"import": "stn_jax"}, {"stn_jax": 1.9}), [True]),
            (line("startup", "r", {"import": "jax"}, {"stn_jax": 3}), []),
            (line("scaling", "r", {}, None, {"exponent": 2, "exponent in operations": 1}), [True]),
        ],
    )
    def test_what_is_met_and_what_is_missed(self, found, met):
        assert [result for _, _, result in render.judged(found)] == met


class TestPage:
    def test_the_newest_run_of_each_row_and_device_counts(self):
        lines = [
            line("warp", "a", {}, {"stn_jax": 2, "torch": 1}, day=3),
            line("warp", "a", {}, {"stn_jax": 5, "torch": 1}, day=2),
            line("warp", "b", {}, {"stn_jax": 1, "torch": 4}),
            line("warp", "a", {}, {"stn_jax": 7, "torch": 7}, **GPU),
        ]
        found = render.newest(lines)
        kept = [x["times"]["stn_jax"]["seconds"] for x in found["x86_64 CPU, 2 cores"]["warp"]]
        assert kept == [2, 1]
        text = render.page(lines)
        cpu, gpu = text.split("## NVIDIA H100")
        assert "| a | 2.00 +- 0.00 s (3) | 1.00 +- 0.00 s (3) | 0.50 | **missed** |" in cpu
        assert "| b | 1.00 +- 0.00 s (3) | 4.00 +- 0.00 s (3) | 4.00 | met |" in cpu
        assert "| 1 of 2 | a (0.5) |" in cpu
        assert "5.00" not in text
        assert "| 1 of 1 | none |" in gpu

    def test_tables_are_tables(self):
        text = render.page(
            [
                line("step", "x", MNIST, {"stn_jax": 1, "flax": 3}, {"GFLOP/s": 3.0}),
                line("step", "y", MNIST, {"stn_jax": 1, "torch": 3}),
                line("step", "z", {**MNIST, "distorted": True}, {"with": 1.0, "without": 2}),
                {
                    **line("warp", "w", {}, {"stn_jax": 1}),
                    "accuracy": {"stn_jax": {"output": 1e-6}},
                },
            ],
            "## By hand\n\nWhy.\n",
        )
        for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
            assert len({row.count("|") for row in block.splitlines()}) == 1, block
        assert "| row | stn_jax | flax | torch | rival / ours | goal |" in text
        assert "| row | with | without | goal |" in text
        assert "output 1.0e-06" in text
        assert text.endswith("## By hand\n\nWhy.\n")

    def test_as_a_command(self, tmp_path):
        found = line("warp", "a", {}, {"stn_jax": 2, "torch": 1})
        (tmp_path / "warp.jsonl").write_text(json.dumps(found) + "\n")
        places = [f"--folder={tmp_path}", f"--page={tmp_path}/page.md"]
        render.main([*places, f"--notes={tmp_path}/none.md"])
        assert (tmp_path / "page.md").read_text() == render.page([found])
        with pytest.raises(SystemExit, match="no results yet"):
            render.main([f"--folder={tmp_path}/empty"])
