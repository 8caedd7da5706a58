"""The rooms of the house: which may import which, and how large they may be (CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stn_jax"
# What each room may import, at any depth of its code; the file names stand for themselves.
MAY_IMPORT = {
    "warp": set(),
    "augment": {"warp"},
    "files": set(),
    "tensor_file": {"files"},
    "progress": set(),
    "extras": set(),
    "interop": set(),
    "models": {"warp"},
    "nnx": {"warp", "models"},
    "pretrained": {"models", "data", "files", "tensor_file"},
    "data": {"warp", "augment", "files", "progress"},
    "street_numbers": {"warp", "data", "progress"},
    "analysis": {"warp", "models"},
    "training": {
        "warp",
        "models",
        "pretrained",
        "data",
        "analysis",
        "files",
        "progress",
        "tensor_file",
    },
    "report": {"warp", "models", "data", "analysis", "training", "files"},
    "experiments": {
        "warp",
        "models",
        "pretrained",
        "data",
        "analysis",
        "training",
        "report",
        "files",
    },
    "cli": {"pretrained", "data", "analysis", "training", "report", "experiments", "files"},
    "__init__": {"warp", "models", "nnx", "pretrained", "training"},
}
MODULES = {
    path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(path: Path, everywhere: bool = True) -> set[str]:
    """The modules of the package that a file imports, and all others by their first name."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = names & set(MODULES.values())
            found |= inside or {node.module}
            found |= {node.module} if names - inside else set()
    return found


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: MODULES[path])
def test_imports_run_one_way(path):
    room = room_of(MODULES[path])
    if path == PACKAGE / "experiments" / "__main__.py":  # a script, as train.py at the root
        return
    others = {room_of(name) for name in imports_of(path) if name.startswith("stn_jax.")}
    allowed = MAY_IMPORT[room] | {room, "__init__", "extras"}
    assert others - allowed == set()


def test_there_are_no_cycles():
    """Neither between rooms nor between the files of one."""
    names = set(MODULES.values())
    graph = {
        name: imports_of(path, everywhere=False) & names - {name}
        for path, name in MODULES.items()
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()


def test_warps_import_only_jax():
    code = "import sys, stn_jax; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert {"stn_jax", "jax", "numpy"} <= loaded
    assert loaded & {"flax", "optax", "orbax", "matplotlib", "PIL", "tensorflow", "tqdm"} == set()
    for path in (PACKAGE / "warp").rglob("*.py"):
        others = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
        assert others <= {"jax", "numpy", "scipy", "stn_jax"}, path


def test_no_two_files_have_one_name():
    paths = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    doubled = [name for name, count in Counter(p.name for p in paths).items() if count > 1]
    assert doubled == []
    standard = {path.stem for path in paths} & set(sys.stdlib_module_names)
    assert standard <= {"train"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: MODULES[path])
def test_files_and_functions_can_be_read_in_one_sitting(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{node.name} has {lines} lines"


def test_configurations_and_tables_wake_no_device():
    """Processes that train together join each other before JAX looks for devices."""
    code = (
        "import jax; from stn_jax.experiments.tables import TABLES; "
        "[row.config() for table in TABLES.values() for row in table.rows]; "
        "jax.config.update('jax_platforms', 'none such'); jax.devices()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "none such" in done.stderr.splitlines()[-1]
