"""The sample of MNIST that ships with the package."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from stn_jax.data import embedded, sources
from tools import embed_sample as maker


def original(folder, prefix):
    """The digits and labels of one split, decoded without a look at the header."""
    images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
    return np.frombuffer(images, np.uint8).reshape(-1, 28, 28, 1), np.frombuffer(labels, np.uint8)


def test_shapes_types_and_balance():
    sample = sources.load("mnist_sample")
    assert (sample.name, sample.version, sample.num_classes) == ("mnist_sample", "1.0.0", 10)
    for split, count in ((sample.train, 10_000), (sample.test, 2_000)):
        assert split.images.shape == (count, 28, 28, 1)
        assert split.images.dtype == np.uint8
        assert split.labels.shape == (count,)
        assert split.labels.dtype == np.int32
        assert not split.images.flags.writeable
        assert not split.labels.flags.writeable
        share = np.bincount(split.labels, minlength=10) / count
        assert len(share) == 10
        assert share.min() > 0.075
        assert share.max() < 0.125
        # What everyone knows of MNIST: a black ground, and the mean of all pixels.
        assert not split.images[:, 0, 0].any()
        assert abs(split.images.mean() / 255 - 0.1307) < 0.003


def test_equals_the_originals(mnist_dir):
    sample = sources.load("mnist_sample")
    images, labels = original(mnist_dir, "train")
    for half in (0, 1):
        np.testing.assert_array_equal(sample.train.images[half::2], images[7 * half :: 12])
        np.testing.assert_array_equal(sample.train.labels[half::2], labels[7 * half :: 12])
    images, labels = original(mnist_dir, "t10k")
    np.testing.assert_array_equal(sample.test.images, images[::5])
    np.testing.assert_array_equal(sample.test.labels, labels[::5])


def test_both_groups_of_writers_are_in_the_sample(mnist_dir):
    # Their digits alternate in the training set, and differ in how much ink they have.
    means = original(mnist_dir, "train")[0].mean(axis=(1, 2, 3)) / 255
    assert means[1::2].mean() - means[::2].mean() > 0.015
    sample = sources.load("mnist_sample").train.images.mean(axis=(1, 2, 3)) / 255
    assert abs(sample.mean() - means.mean()) < 3 * means.std() / 100


def test_the_program_makes_the_same_sample_twice(mnist_dir, tmp_path, monkeypatch, capsys):
    made = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for output in made:
        arguments = ["embed_sample", f"--manual_dir={mnist_dir}", f"--output={output}"]
        monkeypatch.setattr(sys, "argv", arguments)
        maker.main()
    assert made[0].read_bytes() == made[1].read_bytes()
    assert str(made[1]) in capsys.readouterr().out
    # The bytes may differ from the shipped ones where zlib is another; the arrays may not.
    with np.load(made[0]) as ours, np.load(embedded.PATH) as shipped:
        assert sorted(ours.files) == sorted(shipped.files)
        for key in ours.files:
            np.testing.assert_array_equal(ours[key], shipped[key])


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"", gzip.compress(bytes(4 + 12 + 60_000 * 784))])
def test_the_program_rejects_other_files(tmp_path, content):
    if content is not None:
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    command = [sys.executable, "-m", "tools.embed_sample", f"--manual_dir={tmp_path}"]
    result = subprocess.run(
        [*command, f"--output={tmp_path / 'out.npz'}"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "train-images-idx3-ubyte.gz" in result.stderr
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "an array lost"])
def test_a_damaged_sample_is_reported(tmp_path, monkeypatch, damage):
    path = tmp_path / "mnist_sample.npz"
    if damage == "an array lost":
        np.savez(path, train_images=np.zeros((1, 28, 28, 1), np.uint8))
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else embedded.PATH.read_bytes()[:100_000])
    monkeypatch.setattr(embedded, "PATH", path)
    with pytest.raises(sources.DataError, match="reinstall stn_jax"):
        sources.load("mnist_sample")


def test_license_and_size():
    notice = embedded.PATH.with_name("LICENSE.md").read_text()
    for words in ("Yann LeCun", "Corinna Cortes", "Alike 3.0", "subset"):
        assert words in notice
    assert embedded.PATH.stat().st_size < 2_500_000
