"""Data sets through TFDS: real MNIST, data sets made here, and everything that can go wrong.

No test uses the network, and TensorFlow is never imported into the test process.
"""

import gzip
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import types

import numpy as np
import pytest
from made_data import FILES, digits, write_tfds

from stn_jax.data import prepare, sources, tfds_builders
from stn_jax.data.sources import DataError

needs_array_record = pytest.mark.skipif(
    importlib.util.find_spec("array_record") is None, reason="needs array_record"
)
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None
    or importlib.util.find_spec("array_record") is None,
    reason="needs TensorFlow and array_record, to prepare a data set",
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Sends every download to a port where nobody listens, and keeps out of the home folder."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("STN_JAX_CACHE", str(tmp_path / "default_cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default_data"))


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


def customize(monkeypatch, folder, code):
    """Makes the processes that load starts run some code first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(folder)


HIDE_TENSORFLOW = """
    from importlib.machinery import PathFinder
    find = PathFinder.find_spec
    hidden = lambda name, *rest: None if name.startswith("tensorflow.") else find(name, *rest)
    PathFinder.find_spec = lambda name, *rest: None if name == "tensorflow" else hidden(name, *rest)
"""


# --- real MNIST ------------------------------------------------------------------------------


@needs_tensorflow
def test_mnist_from_the_original_files(mnist_dir, tmp_path, capfd):
    data_dir, cache_dir = tmp_path / "new" / "tfds", tmp_path / "cache"
    # What another data set with the same file names would have left here for TFDS to reuse.
    for file in FILES:
        stale = data_dir / "downloads" / "extracted" / f"GZIP.{file}"
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_bytes(bytes(16 + 60_000 * 784))
    mnist = sources.load("mnist", data_dir=data_dir, manual_dir=mnist_dir, cache_dir=cache_dir)
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
    start = time.process_time()
    again = sources.load("mnist", cache_dir=cache_dir)
    assert time.process_time() - start < 0.2
    np.testing.assert_array_equal(again.test.labels, mnist.test.labels)


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
    monkeypatch.setattr(prepare, "require", lambda *modules: None)

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


@needs_array_record
def test_two_processes_at_once(tmp_path):
    train = digits(3000)
    write_tfds(tmp_path / "data", {"train": train, "test": digits(9)})
    both = [run(LOAD, tmp_path / "data", tmp_path / "cache") for _ in range(2)]
    for child in both:
        output, errors = child.communicate()
        assert output.split() == [str(train[0].sum()), "9"], errors
    assert [path.name for path in (tmp_path / "cache" / "toy").iterdir()] == ["1.2.0"]


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


# --- what cannot be loaded -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../mnist",
        "mnist/..",
        "/mnist",
        "mnist/a/b",
        "MNIST",
        "mnist:3.0.1",
        "a b",
        "mnist\n",
        None,
        7,
    ],
)
def test_impossible_names(name):
    with pytest.raises(DataError, match="cannot be the name of a data set"):
        sources.load(name)


@pytest.mark.parametrize("name", ["mnist", "mnist_sample", "toy"])
def test_given_folders_must_exist(tmp_path, name):
    from test_data_cache import write

    write(tmp_path / "toy", digits(30), digits(9))  # even what is cached does not load
    (tmp_path / "file").touch()
    for folder, found in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "file", "is not a"),
    ):
        for what in ("data_dir", "manual_dir"):
            with pytest.raises(DataError, match=f"{what} {folder} {found}"):
                sources.load(name, cache_dir=tmp_path, **{what: folder})
    with pytest.raises(DataError, match=r"data_dir .* is not a folder"):
        sources.load(name, manual_dir=tmp_path, data_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "does not know the data set mnits; did you mean mnist or"),
        ("zzzzqqqq", "does not know the data set zzzzqqqq, nor a name close to it"),
        ("emnist/lettres", "emnist has no configuration lettres; it has .*letters"),
        ("mnist/letters", "mnist has no configuration letters; it has none"),
        pytest.param(
            "higgs",
            "higgs is not a data set for image classification: .* found class_label: Tensor",
            marks=needs_tensorflow,  # TFDS finds this builder with the data extra alone
        ),
        ("imagenet2012", "imagenet2012 has images of different sizes"),
    ],
)
def test_data_sets_that_will_not_do(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        prepare.prepare(name, data_dir=tmp_path, manual_dir=None, cache_dir=tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_image_and_label_are_found_among_the_features():
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image(shape=(8, 8, 1)), tfds.features.ClassLabel(num_classes=3)
    text = tfds.features.Text()

    def keys(supervised, **features):
        features = tfds.features.FeaturesDict(features)
        info = types.SimpleNamespace(features=features, supervised_keys=supervised)
        return tfds_builders.example_names("toy", info)

    assert keys(("image", "fine"), image=image, coarse=label, fine=label) == ("image", "fine")
    assert keys(None, id=text, picture=image, kind=label) == ("picture", "kind")
    assert keys(("picture", "id"), id=text, picture=image, kind=label) == ("picture", "kind")
    for supervised, features in [
        (None, {"image": image, "coarse": label, "fine": label}),
        (None, {"left": image, "right": image, "label": label}),
        (("image", "mask"), {"image": image, "mask": image}),
        (("image", "id"), {"image": image, "id": text}),
    ]:
        with pytest.raises(DataError, match="toy is not a data set for image classification"):
            keys(supervised, **features)


WIDE = np.zeros((30, 8, 6, 1), np.uint8)
MIXED = [np.zeros((8, 8, 1), np.uint8)] * 20 + [np.zeros((9, 9, 1), np.uint8)] * 10
ZEROS = np.zeros(30, int)


@needs_array_record
@pytest.mark.parametrize(
    ("splits", "feature", "message"),
    [
        ({"test": digits(30)}, {}, r"train and test: Unknown split 'train'.*\['test'\]"),
        (
            {"train": digits(30), "test": digits(0)},
            {},
            "toy needs examples in the splits train and test",
        ),
        (
            {"train": digits(30), "test": (WIDE, ZEROS)},
            {"shape": (8, 6, 1)},
            r"toy, test split: found uint8 images of \[8, 6, 1\], not uint8 images of \[8, 8, 1\]",
        ),
        (
            {"train": digits(30), "test": (WIDE, ZEROS)},
            {"shape": (None, None, 1)},
            r"toy, test split: found uint8 images of \[8, 6, 1\], not uint8 images of \[8, 8, 1\]",
        ),
        (
            {},
            {"dtype": np.uint16, "encoding_format": "png"},
            r"toy has uint16 images .* supported are uint8 images with 1 to 4 channels",
        ),
        (
            {"train": digits(30), "test": (MIXED, ZEROS)},
            {"shape": (None, None, 1)},
            r"images of different sizes, \[8, 8, 1\] and \[9, 9, 1\]",
        ),
        (
            {"train": digits(30), "test": digits(30, size=9)},
            {"shape": (None, None, 1)},
            r"toy, test split: found uint8 images of \[9, 9, 1\], not uint8 images of \[8, 8, 1\]",
        ),
        (
            {"train": digits(30), "test": (digits(30)[0], ZEROS + 10)},
            {},
            "toy, test split: found the label 10, not one of 10 classes",
        ),
        (
            {"train": (digits(30)[0], ZEROS - 1), "test": digits(30)},
            {},
            "toy, train split: found the label -1, not one of 10 classes",
        ),
    ],
)
def test_prepared_data_sets_of_another_kind(tmp_path, splits, feature, message):
    splits = splits or {"train": digits(30), "test": digits(9)}
    write_tfds(tmp_path / "data", splits, **feature)
    with pytest.raises(DataError, match=message):
        prepare.prepare(
            "toy", data_dir=tmp_path / "data", manual_dir=None, cache_dir=tmp_path / "cache"
        )
    assert not list(tmp_path.glob("cache/toy/*"))


@needs_array_record
def test_a_damaged_prepared_data_set(tmp_path):
    folder = write_tfds(tmp_path / "data", {"train": digits(300), "test": digits(9)})
    path = next(folder.glob("*train*"))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"^toy cannot be prepared: "):
        sources.load("toy", data_dir=tmp_path / "data")
    assert not list(tmp_path.glob("default_cache/toy/*"))


def test_unwritable_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "manual").mkdir()
    place = tmp_path / "file" / "below"
    with pytest.raises(DataError, match=f"cache_dir {place} cannot be written to"):
        sources.load("mnist", cache_dir=place)
    if importlib.util.find_spec("tensorflow"):
        with pytest.raises(DataError, match=f"data_dir {place} cannot be written to"):
            sources.load("mnist", data_dir=place, manual_dir=tmp_path / "manual")


@needs_tensorflow
def test_no_network(tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        sources.load("mnist", data_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith("mnist cannot be downloaded: ProxyError for https://")
    assert all(word in message for word in (*FILES, "manual_dir", "mnist_sample"))
    assert "\n" not in message
    # TFDS left to itself would try for more than three minutes.
    assert time.monotonic() - start < 60


@needs_tensorflow
def test_files_that_are_not_the_originals(tmp_path):
    for file in FILES:
        (tmp_path / file).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match=f"{tmp_path}/.*-ubyte.gz is another file .it begins"):
        sources.load("mnist", data_dir=tmp_path / "data", manual_dir=tmp_path)
    assert not list(tmp_path.glob("default_cache/*/*"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os._exit(7)", "preparing mnist ended with status 7"),
        ("import signal; signal.raise_signal(9)", "preparing mnist ended with status -9"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="exits as POSIX knows them")
def test_a_crash_while_preparing(tmp_path, monkeypatch, code, message):
    customize(monkeypatch, tmp_path / "site", code)
    with pytest.raises(DataError, match=message):
        sources.load("mnist", data_dir=tmp_path)


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
