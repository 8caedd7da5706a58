"""Builds the native CPU kernels if a C++17 compiler is available; the metadata is in setup.cfg.

    pip install .      a wheel for this platform with the library, or a pure Python wheel
    pip install -e .   the library next to its sources

``CXX`` names the compiler (default: c++). The kernels are compiled for each instruction set and
selected at run time, so the result does not depend on the processor of the build machine.
"""

import importlib.util
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

WARP = pathlib.Path("stn_jax", "warp", "native")
LAYERS = pathlib.Path("stn_jax", "models", "cpu", "native")
# Compiled once.
HANDLERS = [WARP / "library.cc", LAYERS / "handlers.cc"]
# Compiled for each instruction set, with this -ffp-contract.
KERNELS = {
    WARP / "sampling.cc": "fast",
    WARP / "positions.cc": "off",
    LAYERS / "convolution.cc": "fast",
    LAYERS / "pooling.cc": "fast",
}
NAME = "stn_jax.warp.native.libstn_jax"
REASON = "not_built.txt"  # why the library is missing: pip hides the output of a build
FLAGS = [
    *("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-pthread", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math"),
]
LEVELS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"],
    "generic": [],
}


def levels() -> list[str]:
    """The instruction sets to compile for; library.cc selects one of them at run time."""
    machine = os.environ.get("STN_JAX_MACHINE", platform.machine())
    return ["avx2", "avx512"] if machine in ("x86_64", "AMD64") else ["generic"]


def headers() -> str:
    """The folder with the headers of XLA's FFI, from the jaxlib of the build environment.

    That jaxlib is the oldest one supported, because XLA refuses libraries built with newer headers.
    """
    found = importlib.util.find_spec("jaxlib")
    if found is None or not found.submodule_search_locations:
        raise ImportError("jaxlib, which provides the headers, is not installed")
    return str(pathlib.Path(found.submodule_search_locations[0], "include"))


def objects(folder: pathlib.Path, include: str) -> list[tuple[pathlib.Path, list[str]]]:
    """The object files, each with the compiler's arguments."""
    shared = f"-I{WARP}"
    result = [
        (folder / f"{source.stem}.o", ["-isystem", include, shared, str(source)])
        for source in HANDLERS
    ]
    for level in levels():
        for source, contraction in KERNELS.items():
            arguments = [*LEVELS[level], f"-DSTN_LEVEL={level}", f"-ffp-contract={contraction}"]
            result.append((folder / f"{source.stem}_{level}.o", [*arguments, shared, str(source)]))
    return result


def compile_library(compiler: list[str], folder: pathlib.Path, target: pathlib.Path) -> None:
    """Compiles and links the library, and moves it into place once it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    parts = objects(folder, headers())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = [[*compiler, *FLAGS, "-c", *args, "-o", str(out)] for out, args in parts]
        list(pool.map(subprocess.check_call, commands))
    linked = folder / target.name
    files = [str(out) for out, _ in parts]
    subprocess.check_call([*compiler, "-shared", "-pthread", *files, "-o", str(linked)])
    shutil.copy(linked, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)


class BuildNative(build_ext):
    """Builds the library, or prints one message why it could not be built."""

    def get_ext_filename(self, name: str) -> str:
        return name.replace(".", os.sep) + (".dylib" if sys.platform == "darwin" else ".so")

    def run(self) -> None:
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        target = pathlib.Path(self.build_lib, self.get_ext_filename(NAME))
        if self.inplace:
            target = pathlib.Path(self.get_ext_filename(NAME))
        reason = target.with_name(REASON)
        reason.unlink(missing_ok=True)
        try:
            compile_library(compiler, pathlib.Path(self.build_temp), target)
        except (OSError, ImportError, AttributeError, subprocess.CalledProcessError) as error:
            self.extensions = []
            self.distribution.ext_modules = []
            reason.parent.mkdir(parents=True, exist_ok=True)
            reason.write_text(f"{error}\n")
            print(
                f"stn_jax is installed without its native CPU kernels ({error}); warps "
                "and layers on CPU will be computed by plain JAX. Building the kernels needs a "
                "C++17 compiler (CXX names it).",
                file=sys.stderr,
            )


class BuildWithConfigs(build_py):
    """The package, including the config files of this checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib, "stn_jax", "configs")
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted(pathlib.Path("configs").glob("*.py")):
                shutil.copy(path, target)


class PlatformWheel(bdist_wheel):
    """One wheel per platform for all versions of Python: the library does not link to Python."""

    def get_tag(self) -> tuple[str, str, str]:
        built = self.distribution.ext_modules
        return ("py3", "none", super().get_tag()[2] if built else "any")


class NativeDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return bool(self.ext_modules)


setup(
    ext_modules=[Extension(NAME, [str(path) for path in (*HANDLERS, *KERNELS)])],
    cmdclass={"build_py": BuildWithConfigs, "build_ext": BuildNative, "bdist_wheel": PlatformWheel},
    distclass=NativeDistribution,
)
