"""Data sets through TFDS: real MNIST, data sets made here, and everything that can go wrong.

No test uses the network, and TensorFlow is never imported into the test process.
"""

import gzip
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from made_data import FILES, digits, write_tfds
from needs import customize, needs_array_record, needs_tensorflow

from stn_jax.data import prepare, sources, tfds_builders
from stn_jax.data.sources import DataError


def run(code, *arguments, **options):
    """Runs Python code in another process that finds what this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


pytestmark = pytest.mark.usefixtures("no_network")

HIDE_TENSORFLOW = """
    from importlib.machinery import PathFinder
    find = PathFinder.find_spec
    hidden = lambda name, *rest: None if name.startswith("tensorflow.") else find(name, *rest)
    PathFinder.find_spec = lambda name, *rest: None if name == "tensorflow" else hidden(name, *rest)
"""


# --- real MNIST ------------------------------------------------------------------------------


@pytest.mark.slow
@needs_tensorflow
def test_mnist_and_what_is_drawn_from_it_from_the_original_files(mnist_dir, tmp_path, capfd):
    data_dir, cache_dir = tmp_path / "new" / "tfds", tmp_path / "cache"
    # What another data set with the same file names would have left here for TFDS to reuse.
    for file in FILES:
        stale = data_dir / "downloads" / "extracted" / f"GZIP.{file}"
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_bytes(bytes(16 + 60_000 * 784))
    rot = sources.load("mnist_rot", data_dir=data_dir, manual_dir=mnist_dir, cache_dir=cache_dir)
    assert (len(rot.train.images), len(rot.test.images)) == (12_000, 50_000)
    assert np.bincount(rot.train.labels).min() > 1000
    mnist = sources.load("mnist", cache_dir=cache_dir)
    assert isinstance(mnist.train.images, np.memmap)
    assert (mnist.name, mnist.version, mnist.num_classes) == ("mnist", "3.0.1", 10)
    for split, prefix, count in ((mnist.train, "train", 60_000), (mnist.test, "t10k", 10_000)):
        images = gzip.decompress((mnist_dir / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((mnist_dir / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
        images = np.frombuffer(images, np.uint8).reshape(count, 784)
        labels = np.frombuffer(labels, np.uint8)
        assert split.images.shape == (count, 28, 28, 1)
        # TFDS shuffles: compare images with their labels as sets that count repetitions.
        ours = np.c_[split.images.reshape(count, 784), split.labels.astype(np.uint8)]
        theirs = np.c_[images, labels]
        as_bytes = np.dtype((np.void, 785))
        ours, theirs = (np.sort(rows.view(as_bytes), axis=0) for rows in (ours, theirs))
        assert ours.tobytes() == theirs.tobytes()
    # Nothing but the prepared data set and the cache is left, and nothing was downloaded.
    kept = {path.name for path in data_dir.iterdir()}
    assert kept == {"downloads", "mnist"}
    assert [path.name for path in (data_dir / "downloads").iterdir()] == ["extracted"]
    assert [path.name for path in (cache_dir / "mnist").iterdir()] == ["3.0.1"]
    assert "decoding the train split, 60000 images" in capfd.readouterr().err


# --- data sets that TFDS knows, with content from here ---------------------------------------


@pytest.mark.parametrize(
    ("name", "version", "size", "channels", "classes"),
    [
        ("fashion_mnist", "3.0.1", 28, 1, 10),
        ("kmnist", "3.0.1", 28, 1, 10),
        ("cifar10", "3.0.2", 32, 3, 10),
        ("emnist/letters", "3.1.0", 28, 1, 37),
        ("imagenet_resized/8x8", "0.1.0", 8, 3, 1000),
    ],
)
def test_data_sets_of_tfds(tmp_path, monkeypatch, name, version, size, channels, classes):
    import tensorflow_datasets as tfds

    content = {
        "train": digits(2500, size, channels, classes),
        "test": digits(9, size, channels, classes, seed=1),
    }
    # The mock prepares nothing, so it takes no TensorFlow either (another test may have loaded it).
    loaded = "tensorflow" in sys.modules
    for module in (prepare, tfds_builders):
        monkeypatch.setattr(module, "require", lambda *modules: None)

    class Examples(list):
        def __getitems__(self, keys):
            return [self[key] for key in keys]

    def read(builder, split):
        assert set(builder.info.features) >= {"image", "label"}
        images, labels = content[split]
        return Examples({"image": i, "label": n} for i, n in zip(images, labels, strict=True))

    with tfds.testing.mock_data(as_data_source_fn=read, data_dir=str(tmp_path / "data")):
        prepare.prepare(
            name, data_dir=tmp_path / "data", manual_dir=None, cache_dir=tmp_path / "cache"
        )
    source = sources.load(name, cache_dir=tmp_path / "cache")
    assert (source.name, source.version, source.num_classes) == (name, version, classes)
    for split in ("train", "test"):
        images, labels = content[split]
        np.testing.assert_array_equal(getattr(source, split).images, images)
        np.testing.assert_array_equal(getattr(source, split).labels, labels)
    assert ("tensorflow" in sys.modules) == loaded


# --- prepared data sets ----------------------------------------------------------------------


@pytest.mark.slow
@needs_array_record
def test_a_prepared_data_set_needs_no_tensorflow(tmp_path, monkeypatch):
    train, test = digits(2500), digits(9, seed=1)
    write_tfds(tmp_path / "data", {"train": train, "test": test})
    customize(monkeypatch, tmp_path / "site", HIDE_TENSORFLOW)
    source = sources.load("toy", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(source.train.images, train[0])
    np.testing.assert_array_equal(source.train.labels, train[1])
    np.testing.assert_array_equal(source.test.images, test[0])
    assert source.version == "1.2.0"
    # An unprepared one needs it, and the message says so.
    with pytest.raises(DataError, match=r"without tensorflow.*: pip install 'stn_jax\[data\]'"):
        sources.load("mnist", data_dir=tmp_path / "data")


@pytest.mark.slow
@needs_tensorflow
def test_a_data_set_prepared_in_tfds_default_format(tmp_path):
    content = {"train": digits(300), "test": digits(9, seed=1)}
    folder = write_tfds(tmp_path / "data", content)
    convert = """
        import pathlib, sys
        import tensorflow as tf
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        folder = pathlib.Path(sys.argv[1])
        for path in folder.glob("*.array_record-*"):
            with tf.io.TFRecordWriter(str(path).replace("array_record", "tfrecord")) as writer:
                for record in ArrayRecordDataSource(str(path)):
                    writer.write(record)
            path.unlink()
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    """
    child = run(convert, folder)
    assert child.communicate()[1] is not None
    assert child.returncode == 0
    source = sources.load("toy", data_dir=tmp_path / "data")
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(source, split).images, content[split][0])
        np.testing.assert_array_equal(getattr(source, split).labels, content[split][1])


def test_loading_from_the_cache_imports_no_big_package(tmp_path):
    from test_data_cache import write

    write(tmp_path / "toy", digits(30), digits(9))
    # The package's own __init__ may import what it likes; here it is left out.
    code = """
        import sys, types
        package = types.ModuleType("stn_jax")
        package.__path__ = [sys.argv[1]]
        sys.modules["stn_jax"] = package
        from stn_jax.data import sources
        sources.load("mnist_sample")
        sources.load("toy", cache_dir=sys.argv[2])
        print(*sorted({name.split(".")[0] for name in sys.modules}))
    """
    package = pathlib.Path(sources.__file__).parents[1]
    output, errors = run(code, package, tmp_path).communicate()
    assert "numpy" in output.split(), errors
    assert not {"tensorflow", "tensorflow_datasets", "jax", "tqdm"} & set(output.split())


# --- several processes, and interruptions ----------------------------------------------------

LOAD = """
    import sys
    from stn_jax.data import sources
    source = sources.load("toy", data_dir=sys.argv[1], cache_dir=sys.argv[2])
    print(source.train.images.sum(), len(source.test.labels))
"""


@pytest.mark.slow
@needs_array_record
def test_two_processes_at_once(tmp_path):
    train = digits(3000)
    write_tfds(tmp_path / "data", {"train": train, "test": digits(9)})
    both = [run(LOAD, tmp_path / "data", tmp_path / "cache") for _ in range(2)]
    for child in both:
        output, errors = child.communicate()
        assert output.split() == [str(train[0].sum()), "9"], errors
    assert [path.name for path in (tmp_path / "cache" / "toy").iterdir()] == ["1.2.0"]


@pytest.mark.thin("group")
@needs_array_record
@pytest.mark.skipif(os.name != "posix", reason="sends signals to process groups")
@pytest.mark.parametrize("to", ["group", "parent"])
def test_ctrl_c_leaves_nothing_behind(tmp_path, to):
    write_tfds(tmp_path / "data", {"train": digits(30), "test": digits(9)})
    # Decoding one example takes forever, so that there is time to interrupt.
    slow = """
        import sys, time
        if "stn_jax.data.prepare" in sys.orig_argv:
            from PIL import Image
            original = Image.open
            Image.open = lambda *args: [time.sleep(0.5), original(*args)][1]
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(slow))
    # Started in the background, as by some CI, the tests inherit a SIGINT that is ignored.
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {str(tmp_path / "site")!r})
"""
    code += textwrap.dedent(LOAD)
    child = run(code, tmp_path / "data", tmp_path / "cache", start_new_session=True)
    home = tmp_path / "cache" / "toy"
    deadline = time.monotonic() + 60
    while not (home.exists() and list(home.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [path.name[:12] for path in home.iterdir()] == [".unfinished-"]
    (os.killpg if to == "group" else os.kill)(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not list(home.iterdir())


@pytest.mark.slow
@needs_array_record
def test_the_program_by_itself(tmp_path):
    write_tfds(tmp_path / "data", {"train": digits(30), "test": digits(9)})
    command = [sys.executable, "-m", "stn_jax.data.prepare", f"--data_dir={tmp_path / 'data'}"]
    command += [f"--cache_dir={tmp_path / 'cache'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"env": environment, "capture_output": True, "text": True}
    done = subprocess.run([*command, "--name=toy"], **options)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'cache' / 'toy' / '1.2.0'}\n")
    assert "toy: decoding the test split, 9 images" in done.stderr
    failed = subprocess.run([*command, "--name=toi"], **options)
    assert failed.returncode == 1
    assert failed.stdout.startswith("TFDS does not know the data set toi")
    assert failed.stdout.count("\n") == 1
