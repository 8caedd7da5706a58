"""Weights on disk: what comes back, and what is refused."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import pretrained, tensor_file
from stn_jax.data import sources
from stn_jax.pretrained import PretrainedError
from stn_jax.training.restore import evaluate_pretrained
from tools.convert_weights import convert

NAME = "rotated_mnist/stn-sl1"
OPTIONS = {"width": 1 / 8, "classes": 7}
METADATA = {"model": OPTIONS, "input_shape": [28, 28, 1], "test_error_percent": 12.5}


@pytest.fixture(scope="module")
def network():
    """A network with weights of its own, and images for it."""
    module = stn_jax.create_model(*NAME.split("/"), **OPTIONS)
    images = jax.random.normal(jax.random.key(1), (4, 28, 28, 1))
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    # So that it does turn something.
    noise = 0.02 * jax.random.normal(
        jax.random.key(2), params["transformer"]["theta"]["kernel"].shape
    )
    params["transformer"]["theta"]["kernel"] = noise
    return module, params, images


@pytest.fixture(params=["safetensors", "npz"])
def suffix(request):
    """Of the files: as they are written, and as earlier versions wrote them."""
    return request.param


@pytest.fixture
def folder(network, suffix, tmp_path):
    path = pretrained.save(NAME, network[1], METADATA, folder=tmp_path)
    if suffix == "npz":
        arrays, metadata = tensor_file.read(path)
        store(path.with_suffix(".npz"), arrays, {**metadata, "format": 1})
        path.unlink()
    return tmp_path


def store(path, arrays, metadata):
    """Writes a file of weights that are whatever they are."""
    if path.suffix == ".safetensors":
        tensor_file.write(path, arrays, metadata)
    else:
        text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
        np.savez(path, metadata=text, **arrays)


def stored(path):
    if path.suffix == ".safetensors":
        return tensor_file.read(path)
    with np.load(path) as npz:
        arrays = dict(npz)
    return arrays, json.loads(arrays.pop("metadata").tobytes())


def test_a_network_comes_back_in_half_precision(network, folder):
    module, params, images = network
    loaded, variables, _ = stn_jax.load_pretrained(NAME, folder=folder)
    assert loaded == module
    for mine, its in zip(
        jax.tree.leaves_with_path(params),
        jax.tree.leaves_with_path(variables["params"]),
        strict=True,
    ):
        assert mine[0] == its[0]
        assert its[1].dtype == jnp.float32
        np.testing.assert_array_equal(its[1], np.asarray(mine[1]).astype(np.float16))
    logits = module.apply({"params": params}, images)
    assert logits.shape == (4, 7)
    assert float(jnp.abs(logits).max()) > 0.1
    np.testing.assert_allclose(loaded.apply(variables, images), logits, atol=2e-2)
    assert pretrained.describe(NAME, folder=folder)["test_error_percent"] == 12.5


@pytest.mark.thin("rotated_mnist")
@pytest.mark.parametrize("task", ["rotated_mnist", "translated_mnist"])
def test_normalize_takes_images_as_they_are_stored(task):
    """The network reads plain digits as well as its normalized ones: with ``normalize``."""
    name = f"{task}/stn-sl1"
    model, variables, normalize = stn_jax.load_pretrained(name)
    test = sources.load("mnist_sample").test
    images, labels = test.images[:200], test.labels[:200]
    margin = (normalize.shape[0] - 28) // 2
    images = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    seen = normalize(images)
    np.testing.assert_allclose(normalize(images / np.float32(255)), seen, atol=1e-5)
    known = pretrained.describe(name)
    np.testing.assert_allclose(
        seen, (images / np.float32(255) - known["mean"]) / known["deviation"], atol=1e-5
    )
    wrong = np.asarray(model.apply(variables, seen).argmax(-1)) != labels
    assert wrong.mean() < 0.06
    assert np.asarray(model.apply(variables, images / 255).argmax(-1) != labels).mean() > 0.1


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((2, 28, 28, 3), "f"), ValueError, r"takes \[\.\.\., 28, 28, 1\]: convert col"),
        (np.zeros((2, 1, 28, 28), "f"), ValueError, "channels must be the last axis"),
        (np.zeros((2, 32, 32, 1), "f"), ValueError, "resize or pad them"),
        (np.zeros((28, 28), "f"), ValueError, "need a last axis of 1"),
        (np.zeros((28, 28, 1), int), TypeError, "int32; expected floats in"),
    ],
)
def test_what_normalize_refuses(images, error, message):
    normalize = stn_jax.load_pretrained("rotated_mnist/cnn")[2]
    with pytest.raises(error, match=message):
        normalize(images)


def test_table_1_fits_into_8_megabytes(tmp_path):
    """Its largest network, eight times; noise, which no packing makes smaller than it is."""
    module = stn_jax.create_model(*NAME.split("/"))
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32), shapes)
    path = pretrained.save(NAME, params, METADATA, folder=tmp_path)
    assert 8 * path.stat().st_size < 8e6


def test_an_unknown_name_is_answered_with_the_known(network, folder):
    with pytest.raises(PretrainedError, match=r"named 'rotated_mnist/stn-9'; expected: rotated_m"):
        stn_jax.load_pretrained("rotated_mnist/stn-9", folder=folder)
    pretrained.save("rotated_mnist/cnn", network[1], METADATA, folder=folder)
    assert pretrained.available(folder) == ["rotated_mnist/cnn", NAME]
    with pytest.raises(PretrainedError, match="there are no weights named 'x'; expected: none"):
        pretrained.describe("x", folder=folder / "empty")


def test_weights_that_do_not_say_their_recipe_are_of_the_legacy_one(tmp_path):
    name, options = "svhn_cropped/stn-c0", {"width": 1 / 16}
    for recipe in ("legacy", "published"):
        module = stn_jax.create_model(*name.split("/"), recipe=recipe, **options)
        images = jnp.zeros((1, 32, 32, 3))
        shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
        params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        said = {} if recipe == "legacy" else {"recipe": recipe}
        metadata = {"model": {**options, **said}, "input_shape": [32, 32, 3]}
        pretrained.save(name, params, metadata, folder=tmp_path)
        assert stn_jax.load_pretrained(name, folder=tmp_path)[0] == module


def test_weights_of_earlier_versions_have_a_window(network, tmp_path):
    model = {**OPTIONS, "window": 0.5, "recipe": "published"}
    pretrained.save(NAME, network[1], {**METADATA, "model": model}, folder=tmp_path)
    assert stn_jax.load_pretrained(NAME, folder=tmp_path)[0].transformer.crop_fraction == 0.5


def test_weights_of_another_network_are_rejected_with_what_differs(folder, suffix):
    other = "rotated_mnist/stn-c0"
    new = folder / f"rotated_mnist__stn-c0.{suffix}"
    (folder / f"rotated_mnist__stn-sl1.{suffix}").rename(new)
    with pytest.raises(
        PretrainedError,
        match=r"not hold the weights of rotated_mnist/stn-c0, but those of rotated_mnist/stn-sl1"
        r" \(transformer/localization/dense_0/kernel is \[800, 32\], expected \[784, 32\]\)",
    ):
        stn_jax.load_pretrained(other, folder=folder)


def test_a_network_of_the_same_shapes_is_refused_by_its_name(folder, suffix):
    new = folder / f"rotated_mnist__stn-c1.{suffix}"
    (folder / f"rotated_mnist__stn-sl1.{suffix}").rename(new)
    with pytest.raises(
        PretrainedError, match=r"of rotated_mnist/stn-c1, but those of rotated.*sl1$"
    ):
        stn_jax.load_pretrained("rotated_mnist/stn-c1", folder=folder)


def test_missing_weights_are_named(network, tmp_path):
    params = {key: value for key, value in network[1].items() if key != "head"}
    pretrained.save(NAME, params, METADATA, folder=tmp_path)
    with pytest.raises(PretrainedError, match=r"head/logits/bias is absent, expected \[7\]"):
        stn_jax.load_pretrained(NAME, folder=tmp_path)


def rewritten(path, **changes):
    """Writes a file of weights again with other metadata."""
    arrays, metadata = stored(path)
    store(path, arrays, {**metadata, **changes})


def test_damaged_files_and_those_of_another_format_say_so(folder, suffix):
    path = folder / f"rotated_mnist__stn-sl1.{suffix}"
    whole = path.read_bytes()
    for damage in (b"", whole[:100], whole[:-30], b"PK" + whole[:50], b"\x93NUMPY"):
        path.write_bytes(damage)
        with pytest.raises(PretrainedError, match=rf"stn-sl1\.{suffix} is damaged"):
            stn_jax.load_pretrained(NAME, folder=folder)
    path.write_bytes(whole)
    expected = {"safetensors": 2, "npz": 1}[suffix]
    rewritten(path, format=99)
    with pytest.raises(
        PretrainedError, match=f"has format 99, but this version .* reads {expected}"
    ):
        stn_jax.load_pretrained(NAME, folder=folder)
    rewritten(path, format=expected, model={"tomorrow": 3})
    with pytest.raises(PretrainedError, match=r"does not describe a network: .*tomorrow"):
        stn_jax.load_pretrained(NAME, folder=folder)


@pytest.mark.parametrize("value", [1e6, np.nan, np.inf])
def test_weights_that_half_precision_cannot_hold_are_rejected(network, tmp_path, value):
    params = jax.tree.map(lambda x: x, network[1])
    params["head"]["logits"]["bias"] = jnp.full(7, value)
    with pytest.raises(PretrainedError, match="head/logits/bias is not finite in float16"):
        pretrained.save(NAME, params, METADATA, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PretrainedError, match=r"cannot write .*file/rotated_mnist__stn-sl1.safe"):
        pretrained.save(NAME, network[1], METADATA, folder=tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [28, 28]}, r"input_shape is \[28, 28\]; expected \[H, W, C\]"),
        ({"input_shape": [28, 28, 10**9]}, r"input_shape is .*; expected \[H, W, C\]"),
        ({"input_shape": "28"}, "input_shape is '28'; expected a list"),
        ({"model": [1]}, r"model is \[1\]; expected a dict"),
        ({"model": {**OPTIONS, "width": "wide"}}, "does not describe a network: "),
        ({"model": {**OPTIONS, "width": 1e300}}, "does not describe a network: "),
        ({"model": {**OPTIONS, "classes": 0}}, "does not describe a network: "),
        ({"model": {**OPTIONS, "classes": 9}}, r"head/logits/bias is \[7\], expected \[9\]"),
        ({"model": {**OPTIONS, "width": 1 / 4}}, r"conv/kernel is \[.*\], expected \[.*\]"),
    ],
)
def test_metadata_that_cannot_be_is_refused(folder, suffix, changes, message):
    rewritten(folder / f"rotated_mnist__stn-sl1.{suffix}", **changes)
    with pytest.raises(PretrainedError, match=message) as caught:
        stn_jax.load_pretrained(NAME, folder=folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["type", "order", "not finite", "pickle"])
def test_weights_of_another_kind_are_refused(folder, suffix, tmp_path, kind):
    if suffix == "safetensors" and kind in ("order", "pickle"):
        pytest.skip("safetensors knows none")
    path = folder / f"rotated_mnist__stn-sl1.{suffix}"
    arrays, metadata = stored(path)
    bias = arrays["head/logits/bias"]
    fired = tmp_path / "fired"
    changed = {
        "type": bias.astype(np.float64),
        "order": bias.astype(">f2"),
        "not finite": np.full_like(bias, np.inf),
        "pickle": np.array([Fires(fired)], object),
    }
    arrays["head/logits/bias"] = changed[kind]
    store(path, arrays, metadata)
    with pytest.raises(PretrainedError, match=rf"stn-sl1\.{suffix} is damaged"):
        stn_jax.load_pretrained(NAME, folder=folder)
    assert not fired.exists()


class Fires:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_in_the_package_unpickles():
    """No reader of files by pickle: by import, or by a flag of NumPy's."""
    package = Path(stn_jax.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & {
                    name.partition(".")[0] for name in names
                }, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path


# --- files of earlier versions --------------------------------------------------------------------

OLD = Path(__file__).parents[1] / "data" / "npz_weights"


def assert_the_old_weights(params):
    """Those of OLD, which were drawn one after the other."""
    rng = np.random.default_rng(0)
    for leaf in jax.tree.leaves(params):
        drawn = rng.normal(0, 0.1, leaf.shape).astype(np.float32).astype(np.float16)
        np.testing.assert_array_equal(leaf, drawn)


def test_an_npz_file_of_an_earlier_version_is_read():
    module, variables, _ = stn_jax.load_pretrained(NAME, folder=OLD)
    assert module.head.classes == 10
    assert_the_old_weights(variables["params"])
    assert pretrained.available(OLD) == [NAME]
    assert pretrained.describe(NAME, folder=OLD)["test_error_percent"] == 1.0


def test_an_npz_file_is_converted_bit_for_bit(tmp_path):
    (old,) = shutil.copytree(OLD, tmp_path / "weights").iterdir()
    before = pretrained.describe(NAME, folder=old.parent)
    new = convert(old)
    assert [path.name for path in old.parent.iterdir()] == ["rotated_mnist__stn-sl1.safetensors"]
    assert pretrained.describe(NAME, folder=new.parent) == {**before, "format": 2}
    assert_the_old_weights(stn_jax.load_pretrained(NAME, folder=new.parent)[1]["params"])


def test_what_is_saved_goes_before_an_earlier_file(network, tmp_path):
    folder = shutil.copytree(OLD, tmp_path / "weights")
    pretrained.save(NAME, network[1], METADATA, folder=folder)
    assert pretrained.available(folder) == [NAME]
    assert pretrained.describe(NAME, folder=folder)["test_error_percent"] == 12.5


def test_weights_are_described_after_an_import_of_the_package_alone():
    code = "import stn_jax; print(stn_jax.pretrained.describe('rotated_mnist/stn-sl1')['name'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{NAME}\n"


# --- the networks of the package ------------------------------------------------------------------


@pytest.mark.thin("rotated_mnist/stn-sl1")
@pytest.mark.parametrize("name", pretrained.available())
def test_a_network_of_the_package_errs_as_often_as_it_states(name):
    stated = pretrained.describe(name)
    result = evaluate_pretrained(name, {"dataset": "mnist_sample", "test_passes": 1})
    assert result["test_examples"] == 2000  # of the 10,000 that its error is stated for
    share = stated["test_error_percent"] / 100
    deviation = 100 * np.sqrt(share * (1 - share) / 2000)
    assert result["mean"] == pytest.approx(stated["test_error_percent"], abs=4 * deviation)


def test_the_networks_of_the_package_are_small():
    files = sorted(Path(pretrained.__file__).parent.rglob("*.safetensors"))
    assert files
    assert sum(path.stat().st_size for path in files) < 8e6
