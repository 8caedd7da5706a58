"""A short run of the fuzzer, and that it notices what it should."""

import random

import numpy as np
import pytest
from fuzz import READERS, Reader, fuzz, mutated


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_rejected_as_documented(name, tmp_path):
    # Other files than those of the long run (seed 0).
    tally = fuzz(READERS[name], 30, 1, tmp_path)
    assert tally.crashes == []
    assert tally.refused > 6 or name == "lines"  # where what is damaged is left out
    assert tally.opened + tally.refused == 30


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_opened(name, tmp_path):
    reader = READERS[name]
    for path in reader.prepare(tmp_path):
        (tmp_path / "damaged").write_text(path.name)
        reader.open(tmp_path)


def test_other_errors_wrong_values_and_long_messages_are_crashes(tmp_path):
    def prepare(folder):
        path = folder / "numbers"
        path.write_bytes(bytes(range(100)))
        return {path: path.read_bytes()}

    def strict(folder):
        content = (folder / "numbers").read_bytes()
        assert len(content) == 100, "another length"
        if content[:50] != bytes(range(50)):
            raise IndexError("the first half")
        raise ValueError("two\nlines")

    tally = fuzz(Reader(prepare, strict, ValueError), 60, 0, tmp_path, tmp_path / "kept")
    kinds = ("AssertionError: another length", "IndexError: the first half", "not one line")
    assert all(any(kind in crash for crash in tally.crashes) for kind in kinds)
    assert len(tally.crashes) == 60
    assert any((tmp_path / "kept").iterdir())


def test_a_seed_gives_the_same_files_again_and_none_is_sound():
    content = np.random.default_rng(0).bytes(300)
    twice = [[mutated(content, random.Random(i)) for i in range(200)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert content not in twice[0]
    assert len(set(twice[0])) > 150
