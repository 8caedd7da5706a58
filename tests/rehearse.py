"""Runs every command of docs/accelerators.md from start to end, each made small.

    python tests/rehearse.py --mnist_dir=DIR --svhn_dir=DIR [--only=A,B]

The folders hold the original files of MNIST and (some of) SVHN's archives. Networks have a
sixteenth of their width, see a few hundred images once, in two seeds trained as one program, as
accelerators would. Everything is written to a temporary folder. Left out are the installation and
the tests, which have commands of their own.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import made_mnist

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tools.accelerator import with_flags  # noqa: E402 (found only with the checkout on the path)

PAGE = ROOT / "docs" / "accelerators.md"
NETWORKS = ["--config.width=0.0625", "--config.test_passes=1", "--config.batch_size=128"]
TRAINED = [*NETWORKS, "--seeds=0,1", "--epochs=1"]
TIMED = ["--folder=timed", "--rounds=1", "--budget=0.01"]
# What makes a command small, by its first words: flags in place of the page's own.
SMALLER = {
    "stn_jax.data.prepare": [],
    "stn_jax.experiments table": [*TRAINED, "--seeds_per_program=2"],
    "stn_jax.experiments --render": [],
    "stn_jax.experiments figure": [*TRAINED, "--cache_dir=CACHE"],
    "stn_jax.experiments pretrained": [*TRAINED, "--cache_dir=CACHE", "--folder=weights"],
    "benchmarks.warp": [*TIMED, "--only=10x10"],
    "benchmarks.gather": [*TIMED, "--only=28x28"],
    "benchmarks.step": [*TIMED, "--batch=2", "--steps=1", "--variants=cnn"],
    "benchmarks.scaling": [*TIMED, "--only=seeds", "--variant=cnn"],
    "benchmarks.profile": ["--folder=timed", "--rounds=1", "--batch=8", "--variants=cnn"],
    "benchmarks.render": ["--folder=timed", "--page=performance.md"],
}
# Street numbers are as many as SVHN's; here, a few.
START = """
import runpy, sys
from stn_jax.street_numbers import generate
generate.SPLITS.update(train=256, test=64)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def commands(page: str) -> list[list[str]]:
    """The words of each command of a page, which are its lines that are set in by four."""
    lines = page.replace("\\\n", "").splitlines()
    indented = [line[4:] for line in lines if line.startswith("    ")]
    return [shlex.split(line.replace("[", "").replace("]", ""), comments=True) for line in indented]


def smaller(words: list[str]) -> list[str]:
    """The arguments of ``python -m`` for a command, with what makes it small."""
    module, *rest = words[words.index("-m") + 1 :]
    kind = module
    if module == "stn_jax.experiments":
        command = rest[0].rstrip("123")
        kind += " --render" if "--render" in rest else f" {command}"
        kind = kind if kind in SMALLER else "stn_jax.experiments table"
    fewer = [word.replace("--seeds=5", "--seeds=2") for word in rest]
    return [module, *with_flags(fewer, SMALLER[kind])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist_dir", required=True, type=Path)
    parser.add_argument("--svhn_dir", required=True, type=Path)
    parser.add_argument("--only", default="", help="commands that have one of these: A,B")
    flags = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        # Enough for a batch of MNIST-rot, which trains on 12 of 70 digits.
        made_mnist.write(Path(folder) / "cache", 720, 64)
        # What is compiled here runs for seconds, so optimizing it is time lost.
        quick = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": quick}
        for words in commands(PAGE.read_text()):
            wanted = any(text in " ".join(words) for text in flags.only.split(","))
            if "-m" not in words or "pytest" in words or not wanted:
                continue
            arguments = smaller(words)
            prepares = arguments[0] == "stn_jax.data.prepare"
            values = {
                "CACHE": "prepared" if prepares else "cache",
                "FOLDER": str((flags.mnist_dir if prepares else flags.svhn_dir).resolve()),
            }
            for name, value in values.items():
                arguments = [word.replace(f"={name}", f"={value}") for word in arguments]
            print("python -m", *arguments, flush=True)
            begun = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", START, *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            said = f"status {done.returncode} after {time.monotonic() - begun:.0f} s"
            if done.returncode:
                failed += 1
                said += ":\n" + done.stdout[-3000:]
            print(said, flush=True)
    print(f"{failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
