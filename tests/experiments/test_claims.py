"""Which of the paper's claims results support, by rows made for it."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stn_jax.analysis.intervals import weighted_sums
from stn_jax.cli.experiments import main
from stn_jax.experiments import claims, results
from stn_jax.experiments.claims import CLAIMS, Claim, evidence
from stn_jax.training import ConfigError

C0, C1 = "rotation/stn-c0", "rotation/stn-c1"
AHEAD = Claim("C0 ahead of C1", {C0: 1, C1: -1})


def runs_of(line, row, errors, **options):
    """Lines of a row; ``errors`` by seed."""
    return [line(row, seed, error, **options) for seed, error in errors.items()]


def test_sums_are_of_the_keys_that_all_terms_have():
    terms = [(2.0, {0: 1.0, 5: 2.0, 1: 3.0}), (-1.0, {1: 4.0, 5: 1.0}), (-1.0, {5: 1.0, 1: 1.0})]
    assert weighted_sums(terms) == [1.0, 2.0]
    assert weighted_sums([(1.0, {0: 1.0}), (-1.0, {1: 1.0})]) == []


def test_differences_are_paired_by_seed(line, read_back):
    first, second = {0: 0.7, 1: 0.9, 2: 0.8}, {2: 1.1, 0: 1.0, 3: 5.0, 1: 1.15}
    read = read_back(*runs_of(line, C0, first), *runs_of(line, C1, second))
    (found,) = evidence(AHEAD, read)
    paired = stats.ttest_rel([first[s] for s in range(3)], [second[s] for s in range(3)])
    mean, half = found.interval
    np.testing.assert_allclose([mean - half, mean + half], paired.confidence_interval(), rtol=1e-9)
    assert (found.seeds, found.epochs, found.settings, found.verdict) == (3, 20, (), "holds")


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((-0.3, -0.2, -0.25), "holds"),
        ((0.3, 0.2, 0.25), "fails"),
        ((-0.3, 0.2, -0.25), "open"),
        # The mean is far below 0, but the interval is not: half its width is 0.38.
        ((-0.5, -0.2, -0.3), "open"),
        ((-0.3, -0.2), "open"),  # half the width is 0.64
        ((-9.0,), "open"),
        ((0.0, 0.0), "open"),
    ],
)
def test_a_claim_holds_where_its_whole_interval_is_on_its_side(
    line, read_back, differences, verdict
):
    first = {seed: 1.0 + each for seed, each in enumerate(differences)}
    second = dict.fromkeys(first, 1.0)
    read = read_back(*runs_of(line, C0, first), *runs_of(line, C1, second))
    (found,) = evidence(AHEAD, read)
    assert (found.verdict, found.seeds) == (verdict, len(differences))
    assert (found.interval[1] is None) == (len(differences) == 1)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 30},
        {"width": 0.5},
        {"dataset": "fashion_mnist"},
        {"extra": (("train_examples", 55_000),)},
        {"extra": (("test_passes", 2),)},
    ],
    ids=str,
)
def test_only_runs_of_the_same_kind_are_compared(line, read_back, options):
    errors = {0: 0.7, 1: 0.9}
    read = read_back(*runs_of(line, C0, errors), *runs_of(line, C1, errors, **options))
    assert evidence(AHEAD, read) == []


def test_each_way_of_training_is_apart_and_the_longest_comes_first(line, read_back):
    lines = []
    for options in ({}, {"epochs": 40}, {"width": 0.5}):
        lines += runs_of(line, C0, {0: 0.7, 1: 0.9}, **options)
        lines += runs_of(line, C1, {0: 0.8, 1: 1.0}, **options)
    found = evidence(AHEAD, read_back(*lines))
    assert [(each.epochs, each.settings) for each in found] == [
        (40, ()),
        (20, ()),
        (20, (("width", 0.5),)),
    ]


def test_runs_of_one_seed_on_several_devices_count_once(line, read_back):
    read = read_back(
        line(C0, 0, 0.6, device="a GPU"), line(C0, 0, 0.8), line(C1, 0, 1.0, device="a TPU")
    )
    (found,) = evidence(AHEAD, read)
    assert found.seeds == 1
    assert found.interval[0] == pytest.approx(-0.3)


def test_slopes_are_compared_with_the_middle_between_the_extremes(line, read_back):
    def with_slopes(row, slopes):
        return [line(row, s, extra={"angle_slope": x}.items()) for s, x in enumerate(slopes)]

    named = {claim.text.partition(": ")[2]: claim for claim in CLAIMS if claim.key != claims.ERROR}
    near, far, steeper = named.values()
    read = read_back(
        *with_slopes("rotation/stn-sl1", [-0.95, -0.9]), *with_slopes(C1, [-0.2, -0.22])
    )
    assert [evidence(claim, read)[0].verdict for claim in (near, far, steeper)] == ["holds"] * 3
    assert evidence(near, read)[0].interval[0] == pytest.approx(-0.425)
    assert evidence(far, read)[0].interval[0] == pytest.approx(-0.29)
    assert evidence(near, read_back(line("rotation/stn-sl1", 9))) != []  # has no slope: left out
    assert near.paper is None


def test_the_papers_own_numbers_support_all_claims():
    assert [c.text for c in CLAIMS if c.paper is not None and c.paper >= 0] == []
    assert AHEAD.paper == pytest.approx(1.08 - 1.32)


def test_the_page_has_a_line_for_each_claim(line, read_back, tmp_path):
    read = read_back(*runs_of(line, C0, {0: 0.7, 1: 0.9}), *runs_of(line, C1, {0: 0.95, 1: 1.15}))
    page = tmp_path / "study.md"
    assert not claims.update(page, read)
    assert not page.exists()
    page.write_text(f"before\n{claims.BEGIN}\nreplaced\n{claims.END}\nafter\n")
    assert claims.update(page, read)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"\n{claims.END}\nafter\n")
    assert "replaced" not in text
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert len(rows) == 2 + len(CLAIMS)
    shown = "| rotation: STN-C0 has a lower error than STN-C1 | -0.24 | -0.25 ± 0.00 | 2 | 20 |"
    assert sum(row == f"{shown} **holds** |" for row in rows) == 1
    assert sum("not run in the same way" in row for row in rows) == len(CLAIMS) - 1
    assert claims.update(page, read)
    assert page.read_text() == text


def test_the_page_in_the_docs_has_all_claims():
    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text()
    _, _, rest = text.partition(claims.BEGIN)
    table, _, _ = rest.partition(claims.END)
    assert [claim.text for claim in CLAIMS if f"| {claim.text} |" not in table] == []


@pytest.mark.parametrize("text", ["", claims.BEGIN, claims.END + claims.BEGIN])
def test_a_page_without_markers_stays_as_it_is(text, tmp_path):
    page = tmp_path / "study.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match="has no lines"):
        claims.update(page, [])
    assert page.read_text() == text


def test_the_command_writes_the_results_and_the_claims(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results.append(Path("results/table1.jsonl"), [line(C0, 0, 0.7), line(C1, 0, 0.9)])
    assert main(["table1", "--render"]) == 0
    assert "study" not in capsys.readouterr().out
    Path("docs/study.md").write_text(f"{claims.BEGIN}{claims.END}")
    assert main(["table1", "--render"]) == 0
    assert "written to docs/study.md" in capsys.readouterr().out
    assert "| -0.24 | -0.20 | 1 | 20 | **open** |" in Path("docs/study.md").read_text()
