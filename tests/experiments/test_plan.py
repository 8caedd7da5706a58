"""What is to be trained, how, and how long it takes."""

import json

import jax
import pytest

from stn_jax.experiments import jobs
from stn_jax.experiments.tables import TABLES
from stn_jax.training import Config
from stn_jax.training.provenance import environment

ROWS = TABLES["table1"].select(["rotation/cnn", "rotation/stn-c0"])


def planned(jobs):
    return [(job.row.name.removeprefix("rotation/"), job.config.seeds) for job in jobs]


def test_jobs_take_some_seeds_per_program_and_rows_fill_evenly():
    def plan(seeds_per_program):
        return planned(jobs.plan(ROWS, {}, (0, 1, 2), [], seeds_per_program))

    assert plan(1) == [(name, (seed,)) for seed in range(3) for name in ("cnn", "stn-c0")]
    assert plan(2) == [(name, some) for some in ((0, 1), (2,)) for name in ("cnn", "stn-c0")]
    assert plan(99) == [("cnn", (0, 1, 2)), ("stn-c0", (0, 1, 2))]


def test_finished_runs_are_skipped_but_not_for_another_configuration(line, read_back):
    done = read_back(line("rotation/cnn", 1), line("rotation/stn-c0", 0, epochs=3))
    assert planned(jobs.plan(ROWS, {}, (0, 1), done, 9)) == [("cnn", (0,)), ("stn-c0", (0, 1))]
    again = jobs.plan(ROWS, {"epochs": 3}, (0, 1), done, 9)
    assert planned(again) == [("cnn", (0, 1)), ("stn-c0", (1,))]
    # Folders and the like do not make another run.
    moved = jobs.plan(ROWS, {"cache_dir": "/elsewhere", "log_every": 9}, (1,), done, 9)
    assert planned(moved) == [("stn-c0", (1,))]


def test_a_run_of_one_table_is_done_in_the_others(line, read_back):
    done = read_back(line("rotation/stn-c0", 0))
    rows = TABLES["iterated"].select(["rotation/stn-c0-x*"])
    left = [job.row.name for job in jobs.plan(rows, {}, (0,), done, 1)]
    assert left == ["rotation/stn-c0-x2", "rotation/stn-c0-x3"]


def test_jobs_have_folders_of_their_own():
    def folder(settings, seeds=(0,)):
        return jobs.plan(ROWS[:1], settings, seeds, [], 9)[0].workdir("runs")

    folders = [
        folder({}),
        folder({"epochs": 3}),
        folder({"learning_rate": 0.7}),
        folder({}, (0, 1)),
        folder({}, (1,)),
    ]
    assert len(set(folders)) == len(folders)
    assert folder({"cache_dir": "/elsewhere"}) == folders[0]
    assert folders[3].parts[:4] == ("runs", "rotation", "cnn", folders[3].name)
    assert folders[3].name.startswith(f"{Config().epochs}-epochs-seed-0-1-")


def test_by_default_a_program_trains_one_seed_on_cpu_and_all_elsewhere(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert jobs.default_seeds_per_program() == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jobs.default_seeds_per_program() >= 100


def test_time_is_from_earlier_runs_of_the_same_kind_and_else_a_guess(line, read_back):
    here = {key: environment()[key] for key in ("device", "devices")}
    alone, pair = (jobs.plan(ROWS[:1], {}, seeds, [], 9)[0] for seeds in ((5,), (5, 6)))
    elsewhere = read_back(line("rotation/cnn", 0, extra={**here, "device": "another"}.items()))
    assert not jobs.estimate(alone, elsewhere).measured
    done = read_back(
        line("rotation/cnn", 0, epochs=2, extra={**here, "images_per_second": 2000.0}.items()),
        line("rotation/stn-c0", 0, extra={**here, "images_per_second": 1.0}.items()),
    )
    known = jobs.estimate(alone, done)
    # So many epochs of 234 batches of 256.
    seconds = Config().epochs * 234 * 256 / 2000
    assert known.seconds == pytest.approx(seconds)
    assert str(known) == f"about {seconds / 60:.0f} min"
    guess = jobs.estimate(pair, done)
    assert not guess.measured
    assert str(guess).endswith("(a guess)")
    assert guess.seconds == pytest.approx(2 * jobs.estimate(alone, []).seconds)


def test_a_run_of_an_earlier_version_goes_on_in_its_folder(tmp_path):
    (job,) = jobs.plan(ROWS[:1], {}, (0,), [], 9)
    fields = job.config.to_json()
    for name, changes in (("0", {"learning_rate": 0.7}), ("1", {}), ("2", None)):
        folder = tmp_path / "rotation/cnn" / f"{Config().epochs}-epochs-seed-0-{name}"
        folder.mkdir(parents=True)
        earlier = {key: value for key, value in fields.items() if key != "deterministic"}
        text = "damaged" if changes is None else json.dumps(earlier | changes)
        (folder / "config.json").write_text(text)
    assert job.workdir(tmp_path).name.endswith("-1")
    # One of this version's own name comes first.
    usual = job.workdir(tmp_path / "elsewhere").name
    (tmp_path / "rotation/cnn" / usual).mkdir()
    assert job.workdir(tmp_path).name == usual
    other = jobs.plan(ROWS[:1], {"learning_rate": 0.3}, (0,), [], 9)[0].workdir(tmp_path)
    assert not other.exists()
