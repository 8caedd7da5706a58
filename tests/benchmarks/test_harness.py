"""What the benchmarks share: timing in turns, ratios, lines of results."""

import json

import jax
import pytest

from benchmarks import harness
from benchmarks.harness import Report, Timing, compare, ratio, read_lines


@pytest.fixture
def calls(monkeypatch):
    """The names in the order of their calls, and how long each call seems to take."""
    made: list[str] = []
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(harness.time, "sleep", lambda seconds: None)

    def side(name, seconds):
        def call():
            made.append(name)
            now[0] += next(seconds) if hasattr(seconds, "__next__") else seconds

        return call

    return made, side


class TestCompare:
    def test_medians_and_quartiles(self, calls):
        _, side = calls
        times = iter([9, 9, 1, 2, 3, 4, 5])  # two calls before the rounds
        found = compare({"a": side("a", times)}, 5)
        assert found == {"a": Timing(3, (2, 4), 5)}

    def test_turns_are_taken_in_an_order_that_changes(self, calls):
        made, side = calls
        compare({name: side(name, 1.0) for name in "abc"}, 8)
        rounds = ["".join(made[i : i + 3]) for i in range(6, 30, 3)]
        assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
        assert len(set(rounds)) > 1

    def test_slow_sides_take_part_in_fewer_rounds(self, calls):
        _, side = calls
        sides = {"fast": side("fast", 0.1), "slow": side("slow", 1.0), "slowest": side("s", 9.0)}
        found = compare(sides, 20, budget=2)
        assert [t.rounds for t in found.values()] == [16, 3, 1]
        assert [t.median for t in found.values()] == pytest.approx([0.1, 1, 9])

    def test_short_calls_are_made_several_times_a_turn(self, calls):
        made, side = calls
        found = compare({"a": side("a", 0.001)}, 3)["a"]
        assert found.median == pytest.approx(0.001)
        assert found.rounds == 3
        assert len(made) == 2 + 3 * (1 + 5)

    def test_results_are_waited_for(self):
        class Later:
            ready = False

            def block_until_ready(self):
                self.ready = True

        results = []
        compare({"a": lambda: results.append(Later()) or results[-1]}, 2)
        assert results
        assert all(result.ready for result in results)

    @pytest.mark.parametrize(("sides", "rounds"), [({}, 3), ({"a": int}, 0)])
    def test_nothing_to_do_is_an_error(self, sides, rounds):
        with pytest.raises(ValueError, match="expected 1 or more"):
            compare(sides, rounds)


def test_ratio_is_the_fastest_rivals():
    times = {
        name: Timing(seconds, (seconds, seconds), 1)
        for name, seconds in {"stn_jax": 2, "flax": 3, "torch": 8, "torch compiled": 4}.items()
    }
    assert ratio(times) == 1.5
    assert ratio(times, ["torch"]) == 2
    assert ratio(times, ["jax.scipy"]) is None
    assert ratio({"stn_jax": times["stn_jax"]}) is None


@pytest.mark.parametrize(
    ("timing", "text"),
    [
        (Timing(0.01234, (0.0122, 0.0126), 9), "12.3 +- 0.2 ms"),
        (Timing(2.0, (1.9, 2.2), 9), "2.00 +- 0.15 s"),
        (Timing(0.2, (0.2, 0.2), 1), "200 ms"),
    ],
)
def test_times_are_shown_with_their_uncertainty(timing, text):
    assert str(timing) == text


class TestReport:
    def test_lines_hold_everything_needed_to_repeat_them(self, tmp_path, capsys):
        report = Report("warp", {"rounds": 2}, tmp_path / "new")
        for seconds in (1.0, 2.0):
            report.row(
                "a row",
                {"kind": "forward"},
                times={"stn_jax": Timing(seconds, (0.5, 2.5), 3)},
                values={"memory": 0.5},
                accuracy={"stn_jax": {"output": 1e-6}},
            )
        first, second = read_lines(tmp_path / "new")
        assert (first["times"]["stn_jax"]["seconds"], second["times"]["stn_jax"]["seconds"]) == (
            1,
            2,
        )
        assert first["options"] == {"rounds": 2}
        assert first["accuracy"] == {"stn_jax": {"output": 1e-6}}
        assert first["versions"]["jax"] == jax.__version__
        assert {"commit", "dirty", "date", "device", "cpu", "cores"} <= first.keys()
        assert "1.00 +- 1.00 s  output error 1.0e-06" in capsys.readouterr().out

    def test_a_folder_that_cannot_be_written_is_an_error_before_measuring(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(SystemExit, match=r"cannot write to .*; name another .* --folder"):
            Report("warp", {}, tmp_path / "file" / "results")

    def test_an_incomplete_last_line_does_not_swallow_the_next(self, tmp_path):
        (tmp_path / "warp.jsonl").write_text('{"row"')
        Report("warp", {}, tmp_path).row("a row", {})
        _, line = (tmp_path / "warp.jsonl").read_text().splitlines()
        assert json.loads(line)["row"] == "a row"

    def test_a_damaged_line_is_named(self, tmp_path):
        (tmp_path / "warp.jsonl").write_text('{"row": 1}\n{"row"\n')
        with pytest.raises(ValueError, match=r"warp.jsonl, line 2, is not JSON"):
            read_lines(tmp_path)

    def test_names_that_older_lines_use_are_read(self, tmp_path):
        (tmp_path / "profile.jsonl").write_text('{"values": {"share outside of the network": 1}}\n')
        assert read_lines(tmp_path) == [{"values": {"fraction outside the network": 1}}]
