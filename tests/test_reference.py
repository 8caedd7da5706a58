"""The API reference has every public name.

The names are those of the directives in ``docs/reference``; the site need not be built. A module
documented by ``automodule`` has what autodoc takes: its ``__all__``, or what is defined in it, if
it has a docstring.
"""

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stn_jax

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.rst"))
# What has no interface for other programs.
INTERNAL = {
    "stn_jax.cli",
    "stn_jax.experiments",
    "stn_jax.extras",
    "stn_jax.files",
    "stn_jax.progress",
    "stn_jax.report.charts",
    "stn_jax.report.page",
    "stn_jax.report.sweep",
    "stn_jax.tensor_file",
}
# Rooms that are a list of modules: each of these is public. Of the others it is what they export.
LISTS = {"stn_jax.analysis", "stn_jax.report"}
BESIDES = {
    "stn_jax.data.sources",
    "stn_jax.data.tasks",
    "stn_jax.data.photographs",
    "stn_jax.models.classifiers",
    "stn_jax.training.evaluation",
    "stn_jax.training.export",
    "stn_jax.training.restore",
    "stn_jax.training.classify",
    "stn_jax.training.run",
    "stn_jax.warp.affine",
    "stn_jax.warp.native",
    "stn_jax.warp.transforms",
}
WITHOUT_NAMES = {"stn_jax.data", *LISTS}


def children(package: str) -> set[str]:
    path = importlib.import_module(package).__path__
    return {f"{package}.{module.name}" for module in pkgutil.iter_modules(path)}


def public_modules() -> list[str]:
    rooms = {"stn_jax"} | children("stn_jax")
    return sorted(rooms.union(BESIDES, *map(children, LISTS)) - INTERNAL - WITHOUT_NAMES)


def public_names(module: ModuleType) -> dict[str, Any]:
    """What a module exports: its ``__all__``, or the functions and classes defined in it."""
    if exported := getattr(module, "__all__", None):
        found = {name: getattr(module, name) for name in exported}
        return {name: value for name, value in found.items() if not inspect.ismodule(value)}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def resolve(path: str) -> Any:
    parent, _, name = path.rpartition(".")
    return getattr(importlib.import_module(parent), name)


@functools.cache
def documented() -> dict[str, Any]:
    """Full names in the reference, and what they stand for."""
    found: dict[str, Any] = {}
    for page in PAGES:
        text = page.read_text()
        for kind, path, options in re.findall(
            r"^\.\. (auto\w+|py:data):: (\S+)\n((?:   :.*\n)*)", text, re.M
        ):
            if kind != "automodule":
                found[path] = resolve(path)
                continue
            if path == "stn_jax.interop" and importlib.util.find_spec("torch") is None:
                continue
            excluded = re.search(r":exclude-members: (.*)", options)
            left_out = set(excluded[1].split(", ")) if excluded else set()
            for name, value in public_names(importlib.import_module(path)).items():
                if name not in left_out and callable(value) and value.__doc__:
                    found[f"{path}.{name}"] = value
    return found


@pytest.mark.parametrize("path", public_modules())
def test_every_public_name_is_in_the_reference(path):
    if path == "stn_jax.interop":
        pytest.importorskip("torch")
    names = public_names(importlib.import_module(path))
    assert names, f"{path} exports nothing; is it internal?"
    known = list(documented().values())
    missing = [name for name, value in names.items() if not any(value is each for each in known)]
    assert missing == [], f"add {missing} of {path} to a page of docs/reference"


def imported_by(page: Path) -> set[str]:
    """What a page's examples import of this package: modules, and names with their modules."""
    found = set()
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "stn_jax"} - {"stn_jax"}


def test_examples_import_what_the_reference_lists():
    text = "".join(page.read_text() for page in PAGES)
    modules = set(re.findall(r"^\.\. (?:automodule|py:module):: (\S+)", text, re.M))
    paths, known = documented().keys(), list(documented().values())
    checked = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for name in imported_by(page):
            listed = name in modules or any(path.startswith(f"{name}.") for path in paths)
            listed = listed or any(resolve(name) is value for value in known)
            assert listed, f"{page.name} imports {name}, which docs/reference does not list"
            checked += 1
    assert checked > 10


def test_what_the_reference_names_exists_once():
    for name, value in documented().items():
        assert value is not None, name
    identities = [id(value) for value in documented().values()]
    twice = [name for name, value in documented().items() if identities.count(id(value)) > 1]
    assert twice == []
    assert set(stn_jax.__all__) <= {name.removeprefix("stn_jax.") for name in documented()}


def test_angles_are_in_degrees():
    """But for the parameters of two families, which networks predict."""
    docs = {name: inspect.getdoc(value) or "" for name, value in documented().items()}
    in_radians = {name for name, doc in docs.items() if "radian" in doc}
    assert in_radians == {f"stn_jax.warp.transforms.{name}" for name in ("Rotation", "Similarity")}
    checked = 0
    for name, value in documented().items():
        if not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
            continue
        for argument in inspect.signature(value).parameters:
            if re.search(r"(^|_)(angle|degrees?|rotation|turn)($|_)", argument):
                assert "degrees" in docs[name], f"{name} does not say the unit of {argument}"
                checked += 1
    assert checked > 4


def test_all_pages_are_in_the_contents():
    index = (PAGES[0].parent / "index.rst").read_text()
    listed = set(re.findall(r"^   (\w+)$", index, re.M))
    assert listed == {page.stem for page in PAGES} - {"index"}
