"""What a training survives: signals, kills, damage, full disks, a second process."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax
import pytest
from chaos import compare, main

from stn_jax.cli.flags import exit_code
from stn_jax.training import Config, Hooks, train
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.restore import load
from stn_jax.training.workdir import Workdir, WorkdirBusyError, WorkdirError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C as in a foreground process: one in the background may be told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def config(tiny_cache) -> Config:
    return Config(
        cache_dir=str(tiny_cache),
        width=1 / 16,
        epochs=3,
        batch_size=128,
        log_every=3,
        steps_per_dispatch=1,
        test_passes=1,
        figures=False,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """A run of twelve steps that nothing happened to."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(config, path)
    return path


class Acting(Hooks):
    """Calls a function after steps."""

    def __init__(self, act):
        self.after_steps = act


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """That run as it was before the evaluation, with checkpoints of steps 8 and 12."""
    path = tmp_path / "copy"
    shutil.copytree(whole, path)
    (path / "result.json").unlink()
    return path


@pytest.mark.thin("between-log-points-term")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
@pytest.mark.parametrize("at", [5, 8], ids=["between-log-points", "at-a-checkpoint"])
def test_a_signal_saves_first(config, whole, tmp_path, capfd, number, status, at):
    hooks = Acting(lambda step: step == at and os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    code = 0
    try:
        code = exit_code(lambda: train(config, tmp_path, hooks))
    except SystemExit as stopped:
        code = stopped.code
    assert code == status
    assert signal.getsignal(number) is before
    errors = capfd.readouterr().err
    assert f"{number.name}: saving after the steps in flight; repeat to stop at once" in errors
    assert f"{number.name}: stopped at step {at} of 12, saved in {tmp_path}" in errors
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == at
    assert not (tmp_path / "result.json").exists()
    train(config, tmp_path)
    assert f"resuming from step {at} of 12" in capfd.readouterr().out
    compare(whole, tmp_path)


def test_a_second_signal_does_not_wait(config, tmp_path):
    def kill_twice(step):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(config, tmp_path, Acting(kill_twice))
    assert Checkpoints(tmp_path / "checkpoints").latest_step() is None


def flip(path):
    """Changes a bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def undigest(path):
    path.write_bytes(path.read_bytes().replace(b"sha256", b"sha265", 1))


def garble(path):
    data = bytearray(path.read_bytes())
    data[8:10] = b"\xff{"  # where the header begins
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, cut, undigest, garble, empty, make_folder])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_read(copy, capfd, damage):
    damage(copy / "checkpoints" / "12.safetensors")
    assert int(load(copy)[1]["step"]) == 8
    assert (copy / "checkpoints" / "12.safetensors").exists(), "who only reads does not rename"
    assert "checkpoints/12.safetensors is damaged (" in capfd.readouterr().err


@pytest.mark.thin("flip")
@pytest.mark.parametrize("damage", [flip, cut, undigest, garble, empty, make_folder])
def test_training_sets_a_damaged_checkpoint_aside(config, whole, copy, capfd, damage):
    damage(copy / "checkpoints" / "12.safetensors")
    train(config, copy)
    out, errors = capfd.readouterr()
    assert "resuming from step 8 of 12" in out
    assert "checkpoints/12.safetensors is damaged (" in errors
    assert "); renamed to 12.safetensors.damaged" in errors
    compare(whole, copy)
    assert (copy / "checkpoints" / "12.safetensors.damaged").exists()


@pytest.mark.slow
def test_if_all_checkpoints_are_damaged_training_starts_over(config, whole, copy, capfd):
    for step in (8, 12):
        flip(copy / "checkpoints" / f"{step}.safetensors")
    train(config, copy)
    assert "going on" not in capfd.readouterr().out
    compare(whole, copy)


def test_what_killed_processes_left_is_removed(config, copy):
    names = "9.unfinished", "4.doomed", "3.orbax-checkpoint-tmp-1"  # of earlier versions
    left = [copy / "checkpoints" / name for name in names]
    for path in left:
        (path / "default").mkdir(parents=True)
    files = ".result.json.abc.unfinished", "checkpoints/.9.safetensors.abc.unfinished"
    left += [copy / name for name in files]
    for path in left[3:]:
        path.write_text("{")
    train(config, copy)
    assert not any(path.exists() for path in left)


def test_a_whole_checkpoint_of_another_network_is_refused(config, copy):
    checkpoints = Checkpoints(copy / "checkpoints")
    like = {"step": jax.ShapeDtypeStruct((), "int32"), "weights": ()}
    with pytest.raises(
        WorkdirError,
        match=r"does not match this network or this version: optimizer/.*, expected absent, "
        r".*, and \d+ more; train in a new workdir$",
    ):
        checkpoints.restore(like, repair=True)
    assert checkpoints.latest_step() == 12


HOLD = """
import sys, time
from stn_jax.training.workdir import Workdir
with Workdir(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(100)
"""


def test_a_second_process_is_rejected_until_the_first_is_gone(config, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            with pytest.raises(
                WorkdirBusyError, match=rf"another process \(process {other.pid} on"
            ):
                train(config, tmp_path)
            assert not (tmp_path / "config.json").exists()
        finally:
            other.kill()
    with Workdir(tmp_path).lock():
        pass


def test_a_lock_may_be_nested_by_its_owner_alone(tmp_path):
    first, second = Workdir(tmp_path / "run"), Workdir(tmp_path / "run")
    with first.lock():
        with first.lock():
            pass
        with pytest.raises(WorkdirBusyError), second.lock():
            pass
    with second.lock():
        pass


@pytest.fixture
def small_files(copy):
    """Lets no file grow beyond a few kilobytes, as a disk that fills up does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_checkpoint_that_cannot_be_written_leaves_the_others_alone(copy, small_files):
    checkpoints = Checkpoints(copy / "checkpoints")
    state = load(copy)[1]
    small_files()
    with pytest.raises(
        WorkdirError,
        match=rf"step 13 to .*: {os.strerror(errno.EFBIG)}; the last one is of step 12",
    ):
        checkpoints.save({**state, "step": state["step"] + 1})
    names = sorted(path.name for path in (copy / "checkpoints").iterdir())
    assert names == ["12.safetensors", "8.safetensors"]
    chex.assert_trees_all_equal(load(copy)[1], state)


MOUNTED = "unshare --mount --map-root-user sh -c"


def in_a_mount(options: str, folder: Path, command: str) -> subprocess.CompletedProcess:
    """Runs a command where a file system of its own is mounted on a folder."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    mount = f"mount -t tmpfs {options} none {folder}"
    tried = subprocess.run([*MOUNTED.split(), mount], capture_output=True)
    if tried.returncode:
        pytest.skip(f"file systems cannot be mounted here: {tried.stderr!r}")
    return subprocess.run(
        [*MOUNTED.split(), f"{mount} && {command}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def train_command(config: Config, workdir: Path) -> str:
    fields = {k: v for k, v in config.to_dict().items() if v != getattr(Config(), k)}
    flags = " ".join(f"--config.{k}={v}" for k, v in fields.items())
    quickstart = f"--config={ROOT}/configs/rotated_mnist.py"
    return f"{sys.executable} {ROOT}/train.py {quickstart} --workdir={workdir} {flags}"


@pytest.mark.slow
def test_a_full_disk_is_reported_and_the_earlier_checkpoint_is_intact(config, tmp_path):
    """The disk is filled once there is a checkpoint of the first epoch."""
    code = f"""
import jax, os, shutil, sys
from stn_jax.cli.flags import exit_code
from stn_jax.training import Config, train
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.restore import load
config = Config.from_dict({config.to_dict()!r})
workdir = {str(tmp_path / "run")!r}
save = Checkpoints.save
def save_and_fill(self, *args):
    save(self, *args)
    filler = os.open({str(tmp_path / "filler")!r}, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filler, bytes(1024))
    except OSError:
        os.close(filler)
Checkpoints.save = save_and_fill
code = exit_code(lambda: train(config, workdir))
Checkpoints.save = save
os.unlink({str(tmp_path / "filler")!r})
print("whole at", int(load(workdir)[1]["step"]), "status", code)
print("trained to", train(config, workdir)["step"])
"""
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(code)
    done = in_a_mount("-o size=4m", tmp_path, f"{sys.executable} {script}")
    assert "No space left on device" in done.stderr
    assert "run the same command again to resume" in done.stderr
    assert "whole at 4 status 2" in done.stdout, done.stdout + done.stderr
    assert "trained to 12" in done.stdout


def test_a_read_only_workdir_is_reported(config, tmp_path):
    workdir = tmp_path / "run"
    done = in_a_mount("-o ro", tmp_path, train_command(config, workdir))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: cannot write to workdir {workdir}: Read-only file system; "
        "name another folder with --workdir"
    )


def test_a_history_that_was_damaged_is_kept_up_to_there(tmp_path):
    times = [{"step": i, "epoch": i / 2, "seconds": float(i)} for i in range(4)]
    lines = [json.dumps(each) for each in times]
    for damage in ("\0\0\0", "3", "[]", '{"step": 2}', '{"step": "2", "epoch": 1, "seconds": 2.0}'):
        (tmp_path / "metrics.jsonl").write_text("\n".join([*lines[:2], damage, *lines[2:], ""]))
        assert [line["step"] for line in Workdir(tmp_path).metrics()] == [0, 1]


@pytest.mark.slow
def test_a_killed_training_ends_as_an_undisturbed_one(tiny_cache, tmp_path):
    """A short form of chaos.py, which says how to run the long one."""
    flags = [f"--config.cache_dir={tiny_cache}", "--config.dataset=mnist"]
    flags += ["--config.width=0.0625", "--config.epochs=6", "--config.batch_size=128"]
    flags += ["--config.log_every=3", "--config.test_passes=1", "--config.figures=False"]
    assert main(3, 1, tmp_path, flags) >= 1
