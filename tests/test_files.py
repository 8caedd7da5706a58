"""Files that appear whole and stay: what is renamed is followed by an fsync of its folder."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import files, pretrained
from stn_jax.data import cache, sources
from stn_jax.experiments import results_page
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.workdir import Workdir


@pytest.fixture
def unsynced(monkeypatch):
    """The folders in which a name has changed since they were last brought to the disk."""
    pending: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("rename", "replace", "fsync")}

    def changed(path):
        folder = Path(path).absolute().parent
        pending[folder.stat().st_ino] = str(path)

    def move(name):
        def moved(source, target, **more):
            real[name](source, target, **more)
            changed(target)

        return moved

    def fsync(descriptor):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        real["fsync"](number)
        pending.pop(os.fstat(number).st_ino, None)

    monkeypatch.setattr(os, "rename", move("rename"))
    monkeypatch.setattr(os, "replace", move("replace"))
    monkeypatch.setattr(os, "fsync", fsync)
    return pending


def write_json(folder):
    Workdir(folder / "run").write_json("result.json", {})


def rewind_metrics(folder):
    Workdir(folder).rewind_metrics(3)


def save_a_checkpoint(folder):
    Checkpoints(folder / "checkpoints").save({"step": jnp.int32(3), "x": jnp.ones(3)})


def set_a_checkpoint_aside(folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "3.safetensors").touch()
    like = {"step": jnp.int32(3)}
    assert Checkpoints(folder / "checkpoints").restore(like, repair=True) is None
    assert (folder / "checkpoints" / "3.safetensors.damaged").exists()


def write_a_cache(folder):
    split = (2, [(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, int))])
    cache.write(folder / "toy", "toy", "1.0.0", 10, {"train": split, "test": split})


def save_weights(folder):
    metadata = {"model": {}, "input_shape": [28, 28, 1]}
    pretrained.save("rotated_mnist/cnn", {"x": jnp.ones(3)}, metadata, folder=folder / "weights")


def write_results(folder):
    results_page.write(folder / "docs" / "results.md", [], "results")


@pytest.mark.parametrize(
    "write",
    [
        write_json,
        rewind_metrics,
        save_a_checkpoint,
        set_a_checkpoint_aside,
        write_a_cache,
        save_weights,
        write_results,
    ],
    ids=lambda write: write.__name__,
)
def test_renaming_syncs_the_folder(tmp_path, unsynced, write):
    write(tmp_path)
    assert unsynced == {}


def test_no_module_renames_by_itself():
    """All of the package goes through files.rename, which syncs the folder."""
    package = Path(files.__file__).parent
    by_themselves = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name != "files.py"
        and any(call in path.read_text(encoding="utf-8") for call in _RENAMES)
    ]
    assert by_themselves == []


_RENAMES = ("os.rename(", "os.replace(", "shutil.move(", ".rename(")


def test_folders_that_are_made_are_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert sorted(synced) == [tmp_path, tmp_path / "a"]
    files.make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "{home}/.cache/stn_jax"),
        ("", "{home}/.cache/stn_jax"),
        ("relative/cache", "{home}/.cache/stn_jax"),
        ("./cache", "{home}/.cache/stn_jax"),
        ("~/cache", "{home}/.cache/stn_jax"),
        ("/var/cache/me", "/var/cache/me/stn_jax"),
    ],
)
def test_the_cache_is_where_xdg_says(tmp_path, monkeypatch, value, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("STN_JAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    folder = Path(expected.format(home=tmp_path))
    assert files.user_cache() == folder
    assert sources._cache_root(None) == folder


def test_text_is_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getencoding", lambda: "ascii", raising=False)
    with files.atomic_write(tmp_path / "page.md") as file:
        file.write("1.0 \N{PLUS-MINUS SIGN} 0.1")
    assert (tmp_path / "page.md").read_bytes() == b"1.0 \xc2\xb1 0.1"


def test_whether_a_folder_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for folder in (tmp_path, tmp_path / "new" / "below", Path("new"), Path(".")):
        assert files.can_be_written(folder)
    assert not Path("new").exists()
    for folder in (Path("file"), Path("file", "below"), tmp_path / "file" / "below"):
        assert not files.can_be_written(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert not files.can_be_written(Path("new"))


def test_links_stay_and_their_targets_are_written(tmp_path):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to("folder/page.html")
    for text in ("first", "second"):
        with files.atomic_write(link) as file:
            file.write(text)
        assert link.is_symlink()
        assert (folder / "page.html").read_text() == text
    to_folder = tmp_path / "to_folder"
    to_folder.symlink_to(folder)
    with pytest.raises(IsADirectoryError), files.atomic_write(to_folder) as file:
        file.write("third")
    assert to_folder.is_symlink()
    names = ["folder", "link", "page.html", "to_folder"]
    assert sorted(each.name for each in tmp_path.rglob("*")) == names
