"""Sphinx's settings: ``python -m sphinx -W -b html docs build/docs``."""

import importlib.util
import os
import pathlib
import re

import stn_jax

# The notebooks use this checkout, whether or not the package is installed.
ROOT = str(pathlib.Path(stn_jax.__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "stn_jax"
author = "The stn_jax maintainers"
copyright = "The stn_jax maintainers; Apache-2.0"
release = version = stn_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
# performance_notes.md is included in performance.md, which is generated.
exclude_patterns = ["performance_notes.md", "jupyter_execute"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_mock_imports = [] if importlib.util.find_spec("torch") else ["torch"]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # shapes and types are in the docstrings
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "stn_jax"
html_theme_options = {
    "navbar_persistent": [],  # the search is in the sidebar
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_static_path = ["_static"]
html_css_files = ["wide.css"]


def skip_fields(app, what, name, obj, skip, options):
    """Omits namedtuple's generated docstrings of fields, which the classes' docstrings describe."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else skip


def keep_names_together(app, what, name, obj, options, lines):
    """Keeps several names with one description, such as "mode, padding_mode: ...", in one line."""
    for i, line in enumerate(lines):
        if names := re.match(r":(param|ivar) (\*{0,2}\w+(, \*{0,2}\w+)+):", line):
            lines[i] = line.replace(names[2], names[2].replace(", ", ","), 1)


def hide_module_fields(app, what, name, obj, options, signature, return_annotation):
    """Leaves out the fields that every Linen module has."""
    shown = re.sub(r", parent=(<.*?>|None), name=None", "", signature) if signature else signature
    return shown, return_annotation


def setup(app):
    app.connect("autodoc-process-signature", hide_module_fields)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", keep_names_together, priority=501)  # after napoleon
