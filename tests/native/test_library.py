"""A library that cannot be used is left out, by one warning that says why, and JAX works on."""

import _ctypes
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jaxlib
import numpy as np
import pytest

import stn_jax
from stn_jax.warp import native
from stn_jax.warp.primitives import force_implementation

# A library whose handlers were built against an FFI that this jaxlib does not know yet.
FUTURE = """
#include "xla/ffi/api/c_api.h"
static XLA_FFI_Error* answer(XLA_FFI_CallFrame* frame) {
  auto* extension = frame->extension_start;
  if (extension && extension->type == XLA_FFI_Extension_Metadata) {
    auto* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
    metadata->api_version.major_version = 99;
    metadata->api_version.minor_version = 0;
  }
  return nullptr;
}
extern "C" XLA_FFI_Error* stn_jax_sample(XLA_FFI_CallFrame* frame) { return answer(frame); }
extern "C" XLA_FFI_Error* stn_jax_adjoint(XLA_FFI_CallFrame* frame) { return answer(frame); }
extern "C" const char* stn_jax_level() { return "future"; }
extern "C" int stn_jax_ffi_version() { return 99000; }
extern "C" long stn_jax_threads() { return 0; }
"""

# Warps with the library of a folder; prints what is warned of, and the status.
PROGRAM = """
import sys, warnings
import jax, numpy as np, stn_jax
from stn_jax.warp import native
if sys.argv[1]:
    native.__file__ = sys.argv[1] + "/native.py"
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for size in (5, 6):
        image = np.ones((size, 5, 3), np.float32)
        warp = lambda x: stn_jax.affine_transform(x, np.eye(2, 3)).sum()
        value, gradient = jax.jit(jax.value_and_grad(warp))(image)
        assert abs(value - image.size) < 1e-3, value
        np.testing.assert_allclose(gradient, image, atol=1e-5)
print(len([w for w in warned if w.category is RuntimeWarning and "not used" in str(w.message)]))
print(native.status())
"""


def warp_elsewhere(folder="", **environment):
    """How often a process that warps warns, and what it says of the library."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env={**os.environ, "STN_JAX_NATIVE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    warned, status = run.stdout.splitlines()
    return int(warned), status


def load_from(folder, monkeypatch):
    """What loading the library in a folder comes to, in this process."""
    monkeypatch.setattr(native, "__file__", str(folder / "native.py"))
    monkeypatch.delenv("STN_JAX_NATIVE", raising=False)
    found = native._load.__wrapped__()
    assert isinstance(found, str)
    return found


def of_another_processor(library: bytes) -> bytes:
    assert library[:4] == b"\x7fELF"
    return library[:18] + b"\xf3\x00" + library[20:]  # e_machine: RISC-V


# Any shared library will do; this one is none of ours.
ANY = pathlib.Path(_ctypes.__file__).read_bytes()
DAMAGED = {
    "empty": (b"", "file too short"),
    "a header": (ANY[:50], "file too short"),
    "truncated": (ANY[:3000], "is truncated: reinstall the package"),
    "a byte short": (ANY[:-1], "is truncated: reinstall the package"),
    "text": (b"not a library" * 1000, "invalid ELF header"),
    "another processor": (of_another_processor(ANY), "cannot open shared object|wrong ELF|ELF"),
    "another library": (ANY, "undefined symbol: stn_jax_level"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the messages are those of Linux")
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_library_that_is_none_is_left_out_with_a_warning(kind, tmp_path, monkeypatch):
    content, reason = DAMAGED[kind]
    (tmp_path / "libstn_jax.so").write_bytes(content)
    with pytest.warns(RuntimeWarning, match=f"not used.*({reason}).*STN_JAX_NATIVE=0 silences"):
        load_from(tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_library_without_one_of_its_handlers_is_left_out(tmp_path):
    compiled(FUTURE.replace("stn_jax_adjoint", "something_else"), tmp_path)
    warned, status = warp_elsewhere(tmp_path)
    assert warned == 1
    assert status.startswith("plain JAX: ")


def test_a_library_for_a_newer_ffi_is_left_out_and_the_backend_starts(tmp_path):
    compiled(FUTURE, tmp_path)
    warned, status = warp_elsewhere(tmp_path)
    assert warned == 1
    assert status.startswith("plain JAX: ")
    assert "version" in status


def compiled(source, folder):
    include = pathlib.Path(jaxlib.__file__).with_name("include")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or not include.exists():
        pytest.skip("needs a C++ compiler and jaxlib's headers")
    (folder / "future.cc").write_text(source)
    options = ["-std=c++17", "-shared", "-fPIC", f"-I{include}"]
    files = [str(folder / "future.cc"), "-o", str(folder / "libstn_jax.so")]
    subprocess.run([compiler, *options, *files], check=True)


def test_what_is_not_there_says_how_to_build_it(tmp_path, monkeypatch):
    """Without a warning: an installation without a compiler is as it should be."""
    assert re_all(load_from(tmp_path, monkeypatch), "libstn_jax.so", "is not in", "C++17", "CXX")
    (tmp_path / "not_built.txt").write_text("[Errno 2] No such file: 'c++'\n")
    assert re_all(load_from(tmp_path, monkeypatch), "could not be built", "'c++'", "pip install")


def re_all(text, *parts):
    return all(part in text for part in parts)


@pytest.mark.slow
@pytest.mark.skipif(not native.available(), reason=native.status())
def test_it_can_be_turned_off_and_an_instruction_set_be_forced():
    assert warp_elsewhere(STN_JAX_NATIVE="0") == (0, "plain JAX: STN_JAX_NATIVE is 0")
    warned, status = warp_elsewhere(STN_JAX_NATIVE_LEVEL="mmx")
    assert warned == 1
    assert "STN_JAX_NATIVE_LEVEL is mmx" in status
    level = native.status().split("instruction set ")[1].split(",")[0]
    warned, status = warp_elsewhere(STN_JAX_NATIVE_LEVEL=level)
    assert warned == 0
    assert f"instruction set {level}," in status


def test_what_is_forced_and_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(native, "_load", lambda: "there is none")
    with force_implementation("native"), pytest.raises(RuntimeError, match="there is none"):
        jax.jit(lambda x: stn_jax.affine_transform(x, np.eye(2, 3)))(np.ones((7, 3, 1), np.float32))
