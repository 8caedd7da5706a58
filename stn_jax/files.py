"""Files that appear whole or not at all, and that are still there after a power failure."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

UNFINISHED = ".unfinished"


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that appears under its name only once it is written and on disk.

    Args:
      path: the file; its folder is made where it does not exist.
      mode: "w" for text (UTF-8), "wb" for bytes.
    """
    make_folder(path.parent)
    with tempfile.NamedTemporaryFile(
        mode,
        encoding=None if "b" in mode else "utf-8",
        dir=path.parent,
        prefix=f".{path.name}.",
        suffix=UNFINISHED,
        delete=False,
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            rename(Path(file.name), path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)
            raise


def rename(source: Path, target: Path) -> Path:
    """Renames a file or folder, in place of a file that has the name, and has that on disk."""
    os.replace(source, target)
    sync_folder(target.parent)
    return target


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they do not exist, and has that on disk."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Has the names in a folder on disk. Some file systems, and Windows, cannot be asked to."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Has a folder and all that is in it on disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def user_cache() -> Path:
    """Our folder in the user's cache, by the rules of XDG: a path that is not absolute is ignored.

    References:
      XDG Base Directory Specification, https://specifications.freedesktop.org/basedir-spec/
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path("~", ".cache").expanduser()
    return home / "stn_jax"
