"""What the quick run takes of a test with many cases."""

import itertools

import pytest
from quick_run import few_with_all_values


def test_few_cases_hold_all_values():
    sizes = (3, 5, 2)
    cases = [set(enumerate(case)) for case in itertools.product(*map(range, sizes))]
    kept = few_with_all_values(cases)
    assert len(kept) == max(sizes)
    assert set().union(*(cases[i] for i in kept)) == set().union(*cases)
    # Each value as often as the others, or nearly.
    for axis, size in enumerate(sizes):
        counts = [sum((axis, value) in cases[i] for i in kept) for value in range(size)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.thin
@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("a", [1, 2])
def test_the_others_are_slow(request, a, b):
    """As many of these are marked slow as the quick run leaves out."""
    assert (request.node.get_closest_marker("slow") is not None) == (a != b)
