"""Atomic and durable writing of files and folders."""

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
    """Opens a file for writing that appears under its name only once it is complete and on disk.

    Args:
      path: the file, or a symbolic link to it; its folder is created if it does not exist.
      mode: "w" for text (UTF-8), "wb" for bytes.
    """
    path = Path(os.path.realpath(path))  # a link stays, its target is written
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
    """Renames a file or folder, replacing an existing file, and syncs the target's folder."""
    os.replace(source, target)
    sync_folder(target.parent)
    return target


def make_folder(path: Path) -> None:
    """Creates a folder and its parents if they do not exist, and syncs them to disk."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def can_be_written(folder: Path) -> bool:
    """Whether files can be created in a folder, or the folder itself if it does not exist."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def sync_folder(folder: Path) -> None:
    """Syncs a folder's entries to disk, where the system supports it (Windows does not)."""
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
    """Syncs a folder and everything in it to disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def user_cache() -> Path:
    """The package's folder in the user's cache; as XDG requires, relative paths are ignored.

    References:
      XDG Base Directory Specification, https://specifications.freedesktop.org/basedir-spec/
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path("~", ".cache").expanduser()
    return home / "stn_jax"
