"""Sphinx's settings: ``python -m sphinx -W -b html docs build/docs``."""

import os
import pathlib
import sys

import stn_jax

# The notebooks run what is documented, installed or not.
ROOT = str(pathlib.Path(stn_jax.__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
if sys.platform == "linux":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the pages' pictures are those of a CPU

project = "stn_jax"
author = "The stn_jax maintainers"
copyright = "The stn_jax maintainers; Apache-2.0"
release = version = stn_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
# performance_notes.md is a part of performance.md, which a program writes.
exclude_patterns = ["performance_notes.md", "jupyter_execute"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # shapes and types are in the docstrings
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Convention", "Aspect", "What counts"]

html_theme = "sphinx_book_theme"
html_title = "stn_jax"
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
