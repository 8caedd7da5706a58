"""The file of results: whole lines, whoever writes and whoever is killed."""

import dataclasses
import json
import threading

import pytest

from stn_jax.experiments import jobs, results
from stn_jax.experiments import results_page as page
from stn_jax.experiments.tables import TABLES
from stn_jax.training import Config, ConfigError


def test_lines_come_back(line, read_back):
    read = read_back(line("rotation/cnn", 0, 1.7), line("rotation/cnn", 1, 1.8))
    assert [(r.config.seeds, r.line["test_error_percent"]) for r in read] == [
        ((0,), 1.7),
        ((1,), 1.8),
    ]
    assert results.read("no such folder") == []


def test_lines_without_a_recipe_are_of_what_was_made_then(line, read_back):
    rows = ("rotation/stn-c0", "scaling/cnn", "scaling/stn-sl1", "svhn/stn-c0", "svhn/stn-c3")
    lines = [line(row, dataset="mnist") for row in rows]
    for each in lines:
        del each["config"]["recipe"]
    read = read_back(*lines)
    found = {result.line["row"]: result.config.recipe for result in read}
    assert found == dict(zip(rows, ["published", *["legacy"] * 3, "published"], strict=True))
    # What both recipes make alike is done; the others are to be trained anew.
    for row, recipe in found.items():
        table = next(t for t in TABLES.values() if row in [each.name for each in t.rows])
        (found_row,) = table.select([row])
        config = found_row.config({"dataset": "mnist", "seeds": (0,)})
        assert bool(results.of(config, read)) == (recipe == "published")
        assert results.of(dataclasses.replace(config, recipe=recipe), read)


def test_leftovers_of_a_killed_process_are_reported_and_repaired(line, tmp_path, capsys):
    path = tmp_path / "table1.jsonl"
    results.append(path, [line("rotation/cnn", seed) for seed in range(2)])
    whole = path.read_bytes()
    for cut in (1, 2, len(whole) // 4, len(whole) // 2 - 3):
        path.write_bytes(whole[:-cut])
        # The line without its line break is whole.
        survivors = [(0,), (1,)] if cut == 1 else [(0,)]
        assert [r.config.seeds for r in results.read(tmp_path)] == survivors
        said = f"{path}, line 2 is skipped: not a complete result\n"
        assert capsys.readouterr().err == ("" if cut == 1 else said)
        results.append(path, [line("rotation/cnn", 2)])
        assert [r.config.seeds for r in results.read(tmp_path)] == [*survivors, (2,)]
        capsys.readouterr()
    assert path.read_text().endswith("}\n")


def test_lines_of_several_writers_do_not_mix(tmp_path):
    path = tmp_path / "table1.jsonl"
    count = 40

    def write(writer):
        for i in range(count):
            # Longer than any buffer between here and the file.
            results.append(path, [{"writer": writer, "i": i, "rest": str(writer) * 100_000}] * 2)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for writer in range(4):
        mine = [each["i"] for each in lines if each["writer"] == writer]
        assert mine == [i for i in range(count) for _ in range(2)]
    assert all(set(each["rest"]) == {str(each["writer"])} for each in lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "not a complete result"),
        ("3", "not a complete result"),
        ('{"row": "rotation/cnn"}', "not a complete result"),
        ('{"config": {"epochs": 3, "seeds": [0]}}', "not a complete result: row is missing"),
        ('{"config": {"tomorrow": 3}}', "the configuration has unknown fields: tomorrow"),
        ('{"config": {"epochs": 0}}', "epochs is 0; expected 1 or more and at most 2147482624"),
    ],
)
def test_other_lines_are_left_out_and_the_rest_is_read(line, tmp_path, capsys, text, why):
    path = tmp_path / "table1.jsonl"
    path.write_text(f"{text}\n\n{json.dumps(line('rotation/cnn'))}\n")
    assert len(results.read(tmp_path)) == 1
    assert capsys.readouterr().err == f"{path}, line 1 is skipped: {why}\n"


def test_a_file_that_cannot_be_written_is_named(line, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to .*file/table1.jsonl"):
        results.append(tmp_path / "file" / "table1.jsonl", [line("rotation/cnn")])


def test_of_the_same_run_on_the_same_device_the_last_counts(line, read_back):
    read = read_back(
        line("rotation/cnn", 0, 1.7),
        line("rotation/cnn", 0, 1.9),
        line("rotation/cnn", 0, 1.8, device="a GPU"),
    )
    assert sorted(r.line["test_error_percent"] for r in read) == [1.8, 1.9]


def test_runs_are_the_same_if_no_field_that_affects_them_differs():
    config = Config(seeds=(1,))

    def same(**changes):
        other = dataclasses.replace(config, **changes)
        return results.identity(other) == results.identity(config)

    assert same(cache_dir="/elsewhere", log_every=7, figures=False, test_batch_size=3)
    for change in (
        {"seeds": (2,)},
        {"epochs": 17},
        {"dataset": "mnist_sample"},
        {"learning_rate": 0.11},
        {"holdout": 1},
        {"test_passes": 9},
    ):
        assert not same(**change)


MISSING = object()
WRONG = {"missing": MISSING, "null": None, "text": "text", "negative": -1.5, "list": []}
WRONG |= {"object": {}, "true": True}


@pytest.mark.thin("missing")
@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_line_that_lacks_a_field_or_holds_something_else_there_is_rendered_or_left_out(
    line, value, tmp_path, capsys
):
    """Every field of a line, taken away or replaced: pages are written of what is left."""
    also = {"mnist_sample": {"test_error_percent": 2.0, "test_examples": 2000}}
    extra = {"angle_slope": -0.9, "angle_spread_degrees": 20.0, "window_share": 1.0}
    whole = line("rotation/stn-c0", 0, extra={**extra, "also_tested": also}.items())
    other = line("rotation/stn-c0", 1, extra={**extra, "also_tested": also}.items())
    left_out = 0
    for path in _paths(whole):
        broken = json.loads(json.dumps(whole))
        *above, name = path
        place = broken
        for key in above:
            place = place[key]
        if value is MISSING:
            del place[name]
        else:
            place[name] = value
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        (folder / "a.jsonl").write_text(f"{json.dumps(broken)}\n{json.dumps(other)}\n")
        read = results.read(folder)
        left_out += len(read) == 1
        assert len(read) == 2 or capsys.readouterr().err.count("line 1 is skipped: ") == 1
        page.write(tmp_path / "results.md", read, folder)
        for result in read:
            jobs.estimate(jobs.Job(TABLES["table1"].rows[0], result.config), read)
    assert left_out > 10


def _paths(line):
    """The keys that lead to every value of a line, but for those of its config."""
    for key, value in line.items():
        yield (key,)
        if isinstance(value, dict) and key != "config":
            yield from ((key, *below) for below in _paths(value))
