"""What some tests of data sets need, and what the processes that load one do first."""

import importlib.util
import textwrap

import pytest

needs_array_record = pytest.mark.skipif(
    importlib.util.find_spec("array_record") is None, reason="needs array_record"
)
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None
    or importlib.util.find_spec("array_record") is None,
    reason="needs TensorFlow and array_record, to prepare a data set",
)


def customize(monkeypatch, folder, code):
    """Makes the processes that load starts run some code first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(folder)
