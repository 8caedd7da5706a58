"""Which cases of a test the quick run takes, where its mark ``thin`` leaves the choice.

thin: a few that together hold all values of all parameters;
thin("id", ...): the cases with these ids.
"""

from collections import Counter, defaultdict

import pytest


def mark_others_slow(items: list[pytest.Item]) -> None:
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker("thin"):
            tests[item.path, item.parent.name, item.originalname].append(item)
    for cases in tests.values():
        for item in left_out(cases, cases[0].get_closest_marker("thin")):
            item.add_marker(pytest.mark.slow)


def left_out(cases: list[pytest.Item], thin: pytest.Mark) -> list[pytest.Item]:
    if thin.args:
        return [item for item in cases if item.callspec.id not in thin.args]
    values = [{(name, id(x)) for name, x in item.callspec.params.items()} for item in cases]
    kept = few_with_all_values(values)
    return [item for number, item in enumerate(cases) if number not in kept]


def few_with_all_values(cases: list[set]) -> set[int]:
    """Numbers of cases that together hold all that any of them holds; the fullest goes first."""
    kept: set[int] = set()
    missing, held = set().union(*cases), Counter()
    while missing:
        # Of the same number of new values, those with old ones that were seldom taken.
        best = max(
            range(len(cases)),
            key=lambda i: (len(cases[i] & missing), -sum(held[value] for value in cases[i])),
        )
        kept.add(best)
        missing -= cases[best]
        held.update(cases[best])
    return kept
