"""The rendered tables say what the lines say, and nothing else."""

import re

from stn_jax.experiments import results_page
from stn_jax.experiments.tables import TABLES
from stn_jax.training import Config


def rows_of(text):
    """The table's rows as {column: cell} dictionaries."""
    lines = [line.strip("|") for line in text.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def table1(results, dataset="mnist"):
    return rows_of(results_page.markdown(TABLES["table1"], results, dataset))


def test_rows_without_runs_show_as_not_run():
    rows = table1([])
    assert len(rows) == 8
    assert all(row["ours"] == "not run" for row in rows)
    assert rows[3] == {"network": "rotation/stn-sl1", "paper": "0.98 %", "ours": "not run"}
    assert table1([], "mnist_sample") == []


def test_a_row_has_mean_interval_and_provenance(line, read_back):
    angles = [{"angle_slope": s, "angle_spread_degrees": d} for s, d in ((-0.8, 9.0), (-0.9, 11.0))]
    read = read_back(
        line("rotation/stn-sl1", 0, 1.0, seconds=600, extra=angles[0].items()),
        line("rotation/stn-sl1", 1, 1.2, seconds=1200, extra=angles[1].items()),
        line("rotation/cnn", 0, 1.7),
    )
    rows = {row["network"]: row for row in table1(read)}
    # Two values, one degree of freedom: t = 12.706, times half their distance.
    assert rows["rotation/stn-sl1"] == {
        "network": "rotation/stn-sl1",
        "paper": "0.98 %",
        "ours": "**1.10 ± 1.27 %**",
        "n": "2",
        "epochs": str(Config().epochs),
        "slope": "-0.85 ± 0.64",
        "within-class RMS": "10.0 ± 12.7°",
        "training": "15 min",
        "device": "a CPU",
    }
    assert rows["rotation/cnn"]["ours"] == "**1.70 %**"
    assert rows["rotation/cnn"]["slope"] == ""
    assert "jax 1.2.3" in results_page.markdown(TABLES["table1"], read, "mnist")


def test_the_within_digit_rms_is_shown_if_all_lines_have_it(line, read_back):
    names = ("angle_slope", "angle_spread_degrees", "angle_spread_within_degrees")
    measured = [dict(zip(names, (-0.9, 17.0, within), strict=True)) for within in (6.0, 8.0)]
    old = {name: measured[0][name] for name in names[:2]}
    rows = table1(
        read_back(
            *(line("rotation/stn-sl1", i, 1.0, extra=x.items()) for i, x in enumerate(measured)),
            *(line("rotation/stn-c0", i, 1.0, extra=x) for i, x in enumerate((old, measured[0]))),
        )
    )
    shown = {row["network"]: row.get("within-digit RMS") for row in rows}
    assert shown["rotation/stn-sl1"] == "7.0 ± 12.7°"
    assert shown["rotation/stn-c0"] == ""


def test_translations_and_windows_are_shown_in_their_units(line, read_back):
    found = {
        "place_slope": -1.1,  # how earlier versions fitted it: both axes, one intercept
        "place_slope_x": -0.98,
        "place_slope_y": -1.0,
        "place_spread_pixels": 1.234,
        "window_share": 0.523,
        "place_spread_within_pixels": 0.5,
    }
    (row,) = (
        row
        for row in table1(read_back(line("translation/stn-c1", 0, 1.0, extra=found.items())))
        if row["ours"] != "not run"
    )
    assert [row[name] for name in ("slope", "within-class RMS", "within-digit RMS", "window")] == [
        *("-0.98, -1.00", "1.23 px", "0.50 px", "0.52")
    ]


def test_runs_with_other_settings_have_separate_lines(line, read_back):
    read = read_back(
        line("rotation/cnn", 0, 1.0),
        line("rotation/cnn", 0, 2.0, epochs=4),
        line("rotation/cnn", 0, 3.0, device="a GPU"),
        line("rotation/cnn", 0, 4.0, learning_rate=0.05),
        line("rotation/cnn", 1, 5.0, together=[1, 2], seconds=90),
    )
    rows = [row for row in table1(read) if row["network"].startswith("rotation/cnn")]
    key = ("network", "ours", "n", "epochs", "device")
    epochs = str(Config().epochs)
    assert [tuple(row[k] for k in key) for row in rows] == [
        ("rotation/cnn", "**3.00 ± 25.41 %**", "2", epochs, "a CPU"),
        ("rotation/cnn (learning_rate 0.05)", "**4.00 %**", "1", epochs, "a CPU"),
        ("rotation/cnn", "**3.00 %**", "1", epochs, "a GPU"),
        ("rotation/cnn", "**2.00 %**", "1", "4", "a CPU"),
    ]
    assert rows[0]["training"] == "10 min, 90 s for 2"


def test_a_run_of_another_recipe_is_named_by_it(line, read_back):
    read = read_back(
        line("scaling/cnn", 0, 1.0), line("scaling/cnn", 0, 2.0, recipe="legacy", width=0.25)
    )
    found = rows_of(results_page.markdown(TABLES["scaled"], read, "mnist"))
    assert [(row["network"], row["ours"]) for row in found[:2]] == [
        ("scaling/cnn", "**1.00 %**"),
        ("scaling/cnn (recipe legacy, width 0.25)", "**2.00 %**"),
    ]


def test_data_sets_are_never_mixed(line, read_back, tmp_path):
    read = read_back(
        line("rotation/cnn", 0, 1.0), line("rotation/cnn", 0, 7.77, dataset="mnist_sample")
    )
    assert table1(read)[0]["ours"] == "**1.00 %**"
    sample = table1(read, "mnist_sample")
    assert [(row["network"], row["ours"]) for row in sample] == [("rotation/cnn", "**7.77 %**")]
    assert "paper" not in sample[0]
    results_page.write(tmp_path / "docs" / "results.md", read, "results")
    mnist, _, others = (tmp_path / "docs" / "results.md").read_text().partition("on mnist_sample")
    assert "7.77 %" not in mnist
    assert re.findall(r"\*\*.*\*\*", others) == ["**7.77 %**"]


def test_house_numbers_have_digits_and_the_papers_numbers_only_on_svhn(line, read_back):
    digits = [("position_error_percent", 12.5)]
    read = read_back(
        line("svhn/stn-sl3", 0, 30.0, dataset="svhn_numbers", extra=digits),
        line("svhn/stn-sl3", 0, 40.0, dataset="made_up", width=0.25, extra=digits),
    )
    table = TABLES["table2"]
    row = rows_of(results_page.markdown(table, read, "svhn_numbers"))[5]
    assert (row["network"], row["paper"]) == ("svhn/stn-sl3", "3.54 %")
    assert (row["ours"], row["digits"]) == ("**30.00 %**", "12.50 %")
    text = results_page.markdown(table, read, "made_up")
    (row,) = rows_of(text)
    assert row["network"] == "svhn/stn-sl3"
    assert "paper" not in row
    assert "\nAll with width 0.25. Trained on" in text


def test_a_run_shows_in_every_table_that_has_its_network(line, read_back):
    read = read_back(line("rotation/stn-c0", 0, 1.1), line("rotation/stn-c0-x2", 0, 0.9))
    rows = rows_of(results_page.markdown(TABLES["iterated"], read, "mnist"))
    assert [row["ours"] for row in rows[:3]] == ["**1.10 %**", "**0.90 %**", "not run"]
    assert [row["ours"] for row in table1(read)[:3]] == ["not run", "**1.10 %**", "not run"]


def test_synthetic_results_are_labeled_and_show_other_test_sets(line, read_back, tmp_path):
    def tested(error):
        crops = {"test_error_percent": error, "position_error_percent": 9.0, "test_examples": 128}
        return {"also_tested": {"svhn_numbers/custom": crops}}.items()

    read = read_back(
        line("svhn/cnn", 0, 20.0, dataset="street_numbers/30k", extra=tested(40.0)),
        line("svhn/stn-c0", 0, 19.0, dataset="street_numbers/30k"),
    )
    results_page.write(tmp_path / "results.md", read, "results")
    text = (tmp_path / "results.md").read_text()
    part = text[text.index("# The same on street_numbers/30k (synthetic images)") :]
    rows = {row["network"]: row for row in rows_of(part)}
    assert rows["svhn/cnn"]["ours (synthetic)"] == "**20.00 %**"
    assert rows["svhn/cnn"]["on other data"] == (
        "40.00 % of 128 real test images (svhn_numbers/custom)"
    )
    assert rows["svhn/stn-c0"]["paper (real images)"] == "3.81 %"
    assert rows["svhn/stn-c0"]["on other data"] == ""
    assert "ours" not in rows["svhn/cnn"]
