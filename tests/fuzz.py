"""Damaged files for the readers: ``python -m tests.fuzz [--count 10000] [--seed 0] [READER ...]``.

Each reader opens files that were sound before bytes of them were flipped, cut, moved, repeated or
replaced. It may open one all the same, or refuse it with the error that it documents; anything else
(another exception, a wrong value, half a minute without an answer) is a crash: the file is kept,
named, and the exit code is 1. A seed gives the same files again.
"""

import argparse
import collections
import contextlib
import faulthandler
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.damage import mutated
from tests.fuzz_readers import READERS, Reader

GRACE_STEPS = 30  # seconds for one file


class Tally(NamedTuple):
    """What came of a reader's files."""

    opened: int
    refused: int
    crashes: list[str]  # what happened, and to which file


def fuzz(reader: Reader, count: int, seed: int, folder: Path, keep: Path | None = None) -> Tally:
    """Opens a number of damaged files, one after the other.

    Args:
      reader: what opens them.
      count: how many.
      seed: which; the same gives the same.
      folder: an empty one to work in.
      keep: where files are kept that something crashed at.
    """
    sound = reader.prepare(folder)
    reader_seen: collections.Counter[str] = collections.Counter()
    crashes = []
    for i in range(count):
        rng = random.Random(f"{seed}/{i}")
        path = rng.choice(list(sound))
        content = (reader.damage or mutated)(sound[path], rng)
        path.write_bytes(content)
        (folder / "damaged").write_text(path.name)
        faulthandler.dump_traceback_later(GRACE_STEPS, exit=True)
        try:
            reader.open(folder)
            reader_seen["opened"] += 1
        except reader.error as error:
            reader_seen["refused"] += 1
            if not str(error) or "\n" in str(error):
                crashes.append(f"file {i} ({path.name}): the error is not one line: {error!r}")
        except Exception as error:
            crashes.append(f"file {i} ({path.name}): {type(error).__name__}: {error}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{i}-{path.name}").write_bytes(content)
        finally:
            faulthandler.cancel_dump_traceback_later()
        path.write_bytes(sound[path])
    return Tally(reader_seen["opened"], reader_seen["refused"], crashes)


@contextlib.contextmanager
def _working_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stn_jax_fuzz_"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of: {', '.join(READERS)}")
    parser.add_argument("--count", type=int, default=10_000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_crashes"))
    flags = parser.parse_args()
    if unknown := set(flags.readers) - set(READERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(READERS)}")
    bad = 0
    for name in flags.readers or READERS:
        begun = time.monotonic()
        with _working_folder() as folder:
            tally = fuzz(READERS[name], flags.count, flags.seed, folder, flags.keep)
        bad += len(tally.crashes)
        print(
            f"{name}: {flags.count} files, {tally.refused} refused, {tally.opened} opened, "
            f"{len(tally.crashes)} crashes, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        for crash in tally.crashes[:20]:
            print(f"  {crash}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
