"""Checkpoint files: what they hold, that damage is noticed, and those of earlier versions."""

import hashlib
import json
import logging
import shutil
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from stn_jax import tensor_file
from stn_jax.tensor_file import DamagedFileError
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.workdir import WorkdirError

ORBAX = Path(__file__).parents[1] / "data" / "orbax_checkpoint"  # of step 7


def state_of(step: int):
    """Several types, and an optimizer's state with empty parts; what ORBAX holds at step 7."""
    params = {
        "conv": {
            "kernel": jnp.arange(12, dtype=jnp.float32).reshape(1, 3, 4),
            "bias": jnp.zeros((1, 4)),
        },
        "half": jnp.arange(3, dtype=jnp.bfloat16)[None],
    }
    optimizer = optax.chain(
        optax.clip(1.0), optax.scale_by_adam(), optax.scale_by_schedule(lambda count: 0.1)
    )
    return {
        "step": jnp.int32(step),
        "params": params,
        "optimizer": jax.vmap(optimizer.init)(params),
    }


@pytest.fixture
def old(tmp_path) -> Path:
    """A folder with a checkpoint that Orbax has written."""
    return shutil.copytree(ORBAX, tmp_path / "checkpoints")


def test_a_state_comes_back_with_its_types_and_structure(tmp_path):
    checkpoints, state = Checkpoints(tmp_path / "new" / "checkpoints"), state_of(3)
    log = {"loss": [0.1, float("inf")], "steps": 3}
    checkpoints.save(state, log)
    saved = checkpoints.restore(jax.eval_shape(lambda: state))
    chex.assert_trees_all_equal_shapes_and_dtypes(saved.state, state)
    chex.assert_trees_all_equal(saved.state, state)
    assert saved.log == log
    assert checkpoints.read(3, state).log == log
    stored = safetensors.numpy.load_file(checkpoints.folder / "3.safetensors")
    np.testing.assert_array_equal(stored["params/conv/kernel"], state["params"]["conv"]["kernel"])


def test_the_newest_are_kept_and_a_step_saved_again_is_the_later_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (2, 10, 9, 11, 10):
        checkpoints.save({"step": jnp.int32(step), "x": jnp.ones(2)}, {"saved": step})
    checkpoints.save({"step": jnp.int32(10), "x": jnp.zeros(2)})
    assert checkpoints.steps() == [9, 10, 11]
    like = {"step": jnp.int32(0), "x": jnp.ones(2)}
    assert float(checkpoints.read(10, like).state["x"].sum()) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{step}.safetensors" for step in (10, 11, 9)
    ]


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    path = tmp_path / "3.safetensors"
    Checkpoints(tmp_path).save({"step": jnp.int32(3), "x": jnp.ones(2)}, {"loss": [0.5]})
    whole = path.read_bytes()
    arrays, metadata = tensor_file.read(path)
    for i in range(len(whole)):
        for content in (whole[:i], whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :]):
            path.write_bytes(content)
            try:
                found, said = tensor_file.read(path)
            except DamagedFileError:
                continue
            # A space between the words of the header may be another kind of space.
            assert said == metadata, i
            chex.assert_trees_all_equal(found, arrays)
            assert whole[i : i + 1].isspace()


def test_arrays_of_any_memory_order_and_type_are_stored_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, 5))
    arrays = {
        "fortran": np.asfortranarray(values),
        "strided": values[::2, ::-1, 1:],
        "transposed": values.T,
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.int8),
        "bfloat16": jnp.asarray(values, jnp.bfloat16),
        "flags": values > 0,
        "key data": np.asarray(jax.random.key_data(jax.random.key(3))),
    }
    tensor_file.write(tmp_path / "x.safetensors", arrays, {"a": [1, None]})
    found, metadata = tensor_file.read(tmp_path / "x.safetensors")
    assert metadata == {"a": [1, None]}
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}, {"stn_jax": "{"}, {"stn_jax": "[]"}, {"stn_jax": "3"}):
        safetensors.numpy.save_file({"x": np.ones(3)}, path, metadata)
        with pytest.raises(DamagedFileError):
            tensor_file.read(path)
    safetensors.numpy.save_file({"x": np.ones(3)}, path, {"stn_jax": "[" * 100_000})
    with pytest.raises(DamagedFileError):
        tensor_file.read(path)


def test_what_does_not_fit_is_named(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), state_of(3)
    checkpoints.save(state)
    params = {"conv": {"kernel": jnp.zeros((1, 3, 5)), "bias": jnp.zeros((1, 4), jnp.int32)}}
    with pytest.raises(
        WorkdirError,
        match=r"3.safetensors does not match this network or this version: "
        r"params/conv/bias is float32\[1, 4\], expected int32\[1, 4\], "
        r"params/conv/kernel is float32\[1, 3, 4\], expected float32\[1, 3, 5\], "
        r"params/half is bfloat16\[1, 3\], expected absent; train",
    ):
        checkpoints.restore({**state, "params": params})


def test_what_may_not_be_read_is_not_set_aside(tmp_path, monkeypatch):
    checkpoints, state = Checkpoints(tmp_path), state_of(3)
    checkpoints.save(state)

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(tensor_file, "read", forbidden)
    with pytest.raises(WorkdirError, match=r"cannot read checkpoint .*3\.safetensors: Permission"):
        checkpoints.restore(state, repair=True)
    assert checkpoints.steps() == [3]


def test_what_safetensors_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(WorkdirError, match=r"cannot write the checkpoint of step 3 .*complex128"):
        checkpoints.save({"step": np.int32(3), "x": np.ones(3, np.complex128)})
    assert list(tmp_path.iterdir()) == []


# --- those of earlier versions --------------------------------------------------------------------


def test_a_checkpoint_of_orbax_is_read(old, caplog):
    logger = logging.getLogger("absl")
    before = logger.level, list(logger.filters)
    saved = Checkpoints(old).restore(jax.eval_shape(lambda: state_of(7)), repair=True)
    chex.assert_trees_all_equal_shapes_and_dtypes(saved.state, state_of(7))
    chex.assert_trees_all_equal(saved.state, state_of(7))
    assert saved.log == {"loss": [0.5], "steps": 3}
    assert caplog.records == []
    assert (logger.level, list(logger.filters)) == before


def test_a_checkpoint_of_orbax_own_manager_is_read(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(12, args=ocp.args.StandardSave(state_of(12)))
    saved = Checkpoints(tmp_path).restore(state_of(0))
    chex.assert_trees_all_equal(saved.state, state_of(12))
    assert saved.log is None


def test_old_and_new_checkpoints_stand_side_by_side(old):
    checkpoints = Checkpoints(old)
    checkpoints.save(state_of(7), {"saved": "again"})
    assert checkpoints.restore(state_of(0)).log == {"saved": "again"}
    checkpoints.save(state_of(12))
    assert checkpoints.steps() == [7, 12]
    checkpoints.save(state_of(20))
    assert sorted(path.name for path in old.iterdir()) == ["12.safetensors", "20.safetensors"]


def lose(folder):
    shutil.rmtree(folder / "default" / "ocdbt.process_0")


def undigest(folder):
    (folder / "digests.json").unlink()


def garble(folder):
    (folder / "digests.json").write_bytes(b"\xff{")


def list_nothing(folder):
    (folder / "digests.json").write_text("[]")


def add(folder):
    (folder / "default" / "more").touch()


def flip(folder):
    """Changes a bit in the middle of the largest file."""
    path = max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def forge(folder):
    """The digests are right, and Orbax cannot read what they are of."""
    metadata = folder / "default" / "_METADATA"
    metadata.write_text("{")
    digests = folder / "digests.json"
    expected = json.loads(digests.read_text())
    expected["default/_METADATA"] = hashlib.sha256(metadata.read_bytes()).hexdigest()
    digests.write_text(json.dumps(expected))


@pytest.mark.parametrize("damage", [lose, undigest, garble, list_nothing, add, flip, empty, forge])
def test_a_damaged_checkpoint_of_orbax_is_set_aside(old, capfd, damage):
    damage(old / "7")
    assert Checkpoints(old).restore(state_of(0), repair=True) is None
    errors = capfd.readouterr().err
    assert "checkpoints/7 is damaged (" in errors
    assert errors.endswith("); renamed to 7.damaged\n")
    assert [path.name for path in old.iterdir()] == ["7.damaged"]


def test_without_orbax_its_checkpoints_are_refused_by_the_name_of_the_extra(old, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(WorkdirError, match=r'with Orbax: orbax is not .* "stn_jax\[orbax]"'):
        Checkpoints(old).restore(state_of(0), repair=True)
    assert Checkpoints(old).steps() == [7]


def test_a_checkpoint_of_orbax_of_another_network_is_refused(old):
    with pytest.raises(
        WorkdirError, match=r"7 does not match .* optimizer/1/count is int32\[1\], expected"
    ):
        Checkpoints(old).restore({"step": jnp.int32(0)}, repair=True)
    assert Checkpoints(old).steps() == [7]
