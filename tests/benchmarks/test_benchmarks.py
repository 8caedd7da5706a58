"""The benchmarks themselves, on tiny cases: that all sides do the same, and what is written."""

import argparse
import functools
import importlib.util
import time

import jax
import numpy as np
import pytest

from benchmarks import (
    eager,
    gather,
    harness,
    layers,
    microbatch,
    pipeline,
    profile,
    scaling,
    startup,
    step,
    training_rate,
    warp,
)
from benchmarks.harness import Report, read_lines
from stn_jax.models import create_model
from stn_jax.warp import native


class TestExponent:
    @pytest.mark.parametrize("power", [0.5, 1, 2])
    def test_of_a_power(self, power):
        sizes = np.array([1, 3, 7, 20])
        slope, error = scaling.exponent(sizes, 0.1 * sizes**power)
        assert slope == pytest.approx(power)
        assert error < 1e-6

    def test_its_error_covers_noise(self):
        rng = np.random.default_rng(0)
        sizes = 2.0 ** np.arange(8)
        off = []
        for _ in range(300):
            slope, error = scaling.exponent(sizes, sizes * np.exp(rng.normal(0, 0.1, 8)))
            off.append((slope - 1) / error)
        assert np.std(off) == pytest.approx(np.sqrt(6 / 4), abs=0.2)  # Student's t, 6 degrees

    def test_two_points_have_no_error(self):
        with pytest.raises(ValueError, match="expected 3 or more"):
            scaling.exponent([1, 2], [1, 2])


TINY_WARPS = (
    warp.Case((2, 6, 7, 3), (6, 7)),
    warp.Case((2, 6, 8, 2), (6, 8), "flow"),
    warp.Case((1, 5, 6, 7, 2), (1, 1, 40), "points"),
)


@pytest.mark.slow
def test_all_sides_of_a_warp_compute_the_same(tmp_path):
    pytest.importorskip("torch")
    flags = ["--rounds=1", "--budget=0", f"--folder={tmp_path}"]
    warp.main(flags, TINY_WARPS[:1])
    warp.main([*flags, "--only=backward to image"], TINY_WARPS[1:])
    lines = read_lines(tmp_path)
    assert [row["case"]["gradients"] for row in lines] == [0, 1, 2, 2, 2]
    for row in lines:
        assert row["accuracy"].keys() == row["times"].keys()
        assert {"stn_jax", "map_coordinates", "torch"} <= row["times"].keys()
        for side, errors in row["accuracy"].items():
            assert len(errors) == 1 + row["case"]["gradients"]
            assert max(errors.values()) < 2e-5, (row["row"], side)
        assert "temporary memory" in row["values"] if "image and" in row["row"] else True


@pytest.fixture
def narrow(monkeypatch):
    """Narrow networks: their size is not what is tested."""
    from stn_jax.training import assemble as assembling

    narrow_model = functools.partial(create_model, width=1 / 16)
    for module in (step, training_rate):
        monkeypatch.setattr(module, "create_model", narrow_model)
    monkeypatch.setattr(
        assembling, "create_model", lambda *a, **k: create_model(*a, **k | {"width": 0.1})
    )
    if importlib.util.find_spec("torch"):
        from stn_jax import interop

        create = functools.partial(interop.create, width=1 / 16)
        monkeypatch.setattr(interop, "create", create)


@pytest.mark.slow
def test_all_sides_of_a_step_compute_the_same(tmp_path, monkeypatch, narrow):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(step, "peaks", lambda dtype: (1e9, 1e9))
    options = argparse.Namespace(
        task="rotated_mnist",
        batch=3,
        seeds=1,
        steps=2,
        dtype="float32",
        rounds=1,
        budget=0,
        compile=False,
        without_flax=False,
    )
    step.measure(Report("step", {}, tmp_path), "stn-c0", options, torch)
    plain, distorted = read_lines(tmp_path)
    assert plain["times"].keys() == {"stn_jax", "flax", "torch", "torch channels last"}
    assert plain["accuracy"].keys() == {"stn_jax", "flax", "torch"}
    for errors in plain["accuracy"].values():
        assert errors["loss"] < 1e-5
        assert errors["gradients"] < 1e-3
    assert plain["values"]["GFLOP/s"] > 0
    assert distorted["case"]["distorted"]


@pytest.mark.slow
def test_steps_in_jax_and_in_pytorch_go_the_same_way(narrow):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(4, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 4)
    model = step.create_model("rotated_mnist", "cnn")
    params = step.initial(model, batch[0], 2)
    ours = step.JaxSide(model, params, batch, steps=2)
    theirs = step.TorchSide(
        torch, "rotated_mnist", "cnn", params, batch, channels_last=True, steps=2
    )
    losses = [(ours(), theirs()) for _ in range(2)]
    assert losses[0][0].shape == (2,)
    for a, b in losses:  # PyTorch's is the last network's
        assert float(a[1]) == pytest.approx(b.item(), rel=1e-4)
    assert float(losses[1][0][1]) < float(losses[0][0][1]) - 1e-2


@pytest.mark.slow
def test_a_step_is_profiled_by_layer(tmp_path, narrow):
    profile.measure(Report("profile", {}, tmp_path), "rotated_mnist", "stn-sl1", 32, 3)
    (found,) = read_lines(tmp_path)
    values = found["values"]
    parts = {name: ms for name, ms in values.items() if name != "step (ms)"}
    assert sum(parts.values()) == pytest.approx(values["step (ms)"])
    shared = "blocks_0 convolution (for localization)"
    for layer in ("blocks_0 convolution", shared, "localization", "warp"):
        assert parts[f"{layer}, forward"] > 0
    assert values["step (ms)"] > max(parts.values()) > 0


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("jit(f)/while/body/jvp(Network)/blocks_0/conv/dot", "blocks_0 convolution, forward"),
        (
            "jit(f)/transpose(jvp(Network))/transformer/blocks_1/jit(relu)/max",
            "blocks_1 pooling, ReLU (for localization), backward",
        ),
        ("jit(f)/transpose(jvp(Network))/transformer/theta/dot", "localization, backward"),
        ("jit(f)/jvp(Network)/transformer/cond", "warp, forward"),
        ("jit(f)/jvp(Network)/Network._transform/transformer/stn_jax_warp", "warp, forward"),
        (
            "jit(f)/jvp(Network)/Network._transform/transformer/blocks_0/conv/add",
            "blocks_0 convolution (for localization), forward",
        ),
        (
            "jit(f)/jvp(Network)/Network._transform/transformer/transformer.parameters/theta/add",
            "localization, forward",
        ),
        ("jit(f)/jvp(Network)/head/logits/dot", "head, forward"),
        ("jit(f)/while/body/sub", "optimizer and loss"),
    ],
)
def test_operations_belong_to_layers(path, layer):
    program = f'%dot.1 = f32[2] dot(%a, %b), metadata={{op_name="{path}" stack_frame_id=3}}'
    events = [
        {"ph": "X", "name": "dot.1", "dur": 2_000_000},
        {"ph": "X", "name": "dot.1", "dur": 500_000},
        {"ph": "X", "name": "something else", "dur": 1},
        {"ph": "M", "name": "dot.1"},
    ]
    assert profile.by_layer(events, program) == {layer: 2.5}


@pytest.mark.slow
def test_epochs_are_timed_in_turns(tmp_path, narrow):
    options = argparse.Namespace(
        task="rotated_mnist", steps=2, batch=4, epochs=3, dataset="mnist_sample"
    )
    pipeline.measure(Report("pipeline", {}, tmp_path), "cnn", options)
    (found,) = read_lines(tmp_path)
    assert found["case"]["steps"] == 2
    rounds = {name: t["rounds"] for name, t in found["times"].items()}
    assert rounds == {"epoch": 2, "dispatch": 3, "bare": 3}
    fractions = found["values"]
    parts = ("fraction for distortion and shuffling", "fraction for the rest of the loop")
    assert sum(fractions[part] for part in parts) == pytest.approx(
        fractions["fraction outside the network"]
    )


def test_imports_are_timed_in_fresh_processes(tmp_path, monkeypatch):
    (tmp_path / "sleepy.py").write_text("import time; time.sleep(0.3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    took = [startup.import_seconds("sleepy", tmp_path) for _ in range(2)]
    assert min(took) >= 0.3, "the second import was not a process of its own"


@pytest.mark.slow
def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"no step after .*expected cnn, or stn-cX"):
        startup.first_step(tmp_path / "run", tmp_path, "stn-none")


@pytest.mark.parametrize("kind", ["forward", "to the input", "to the kernel"])
def test_all_sides_of_a_convolution_compute_the_same(kind, monkeypatch):
    monkeypatch.setattr(layers, "BATCH", 2)
    torch = harness.optional_torch()
    sides = layers.convolution(layers.Conv(8, 3, 3, 5), kind, torch)
    results = {name: fn() for name, fn in sides.items()}
    ours = np.asarray(jax.tree.leaves(results["stn_jax"])[0])
    np.testing.assert_allclose(jax.tree.leaves(results["plain"])[0], ours, atol=1e-4)
    if torch is not None:
        theirs = results["torch"]
        if kind == "to the kernel":
            theirs = theirs[1].permute(2, 3, 1, 0)
        else:
            theirs = (theirs if kind == "forward" else theirs[0]).permute(0, 2, 3, 1)
        np.testing.assert_allclose(theirs, ours, atol=1e-4)


@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_all_sides_of_a_pooling_compute_the_same(kind, monkeypatch):
    monkeypatch.setattr(layers, "BATCH", 2)
    results = {name: fn() for name, fn in layers.pooling(6, 3, kind, None).items()}
    jax.tree.map(np.testing.assert_array_equal, results["stn_jax"], results["plain"])


@pytest.mark.slow
def test_time_over_parts_of_a_batch(tmp_path, narrow, capsys):
    flags = ["--variants=cnn", "--rounds=1", "--budget=0", "--steps=1", f"--folder={tmp_path}"]
    microbatch.main([*flags, "--batch=4", "--sizes=4,2"])
    (found,) = read_lines(tmp_path)
    assert list(found["times"]) == ["4 at once", "2 at once"]
    assert found["values"] == {"chosen": 4, "whole / chosen": 1}
    with pytest.raises(SystemExit):
        microbatch.main([*flags, "--batch=4", "--sizes=3"])
    assert "--sizes is 3; expected divisors of the batch, 4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_in_parts_is_the_step():
    model = create_model("rotated_mnist", "stn-sl1", width=1 / 16)
    batch = step.network_inputs("rotated_mnist", step.raw_batch("rotated_mnist", 8))
    params = step.initial(model, batch[0], 1)
    losses = [step.JaxSide(model, params, batch, microbatch=size, steps=2)() for size in (8, 2)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not native.available(), reason="there is no native library here")
def test_the_rate_without_native_kernels_is_of_the_same_training(narrow):
    case = ("translated_mnist", "stn-c0", 8, 1)
    ours = training_rate.step(*case)
    with training_rate.without_native():
        plain = training_rate.step(*case)
    assert "stn_jax" in ours.lowered.as_text()
    assert "stn_jax" not in plain.lowered.as_text()
    np.testing.assert_allclose(ours(), plain(), rtol=1e-5)


def test_operations_by_themselves(tmp_path):
    eager.main(["--rounds=1", "--budget=0", "--only=crop_and", f"--folder={tmp_path}"])
    (found,) = read_lines(tmp_path)
    assert list(found["times"]) == ["stn_jax", "operation by operation"]
    assert all(hasattr(call.func, "__wrapped__") for call in eager.calls().values())


@pytest.mark.slow
def test_time_over_sizes(tmp_path, monkeypatch):
    monkeypatch.setitem(scaling.FIXED, "width", 1 / 16)
    start = time.monotonic()
    scaling.main(
        ["--variant=cnn", "--rounds=1", "--budget=0", f"--folder={tmp_path}"],
        {"batch": (1, 2, 4)},
    )
    (found,) = read_lines(tmp_path)
    assert list(found["times"]) == ["batch 1", "batch 2", "batch 4"]
    assert all(t["seconds"] < time.monotonic() - start for t in found["times"].values())
    assert {"exponent", "exponent in operations"} <= found["values"].keys()


def test_the_packed_gather_computes_the_same(tmp_path):
    case = warp.Case((2, 5, 6, 3), (4, 7), "points")
    args = warp.draw(case)
    args = args[0], 1.5 * args[1], args[2]  # some outside
    for wrt in gather.KINDS.values():
        one, other = (
            gather.compiled(side, wrt, args)(*args) for side in list(gather.sides().values())[:2]
        )
        for found, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gather.main(["--rounds=1", "--budget=0.01", f"--folder={tmp_path}"], [case])
    lines = read_lines(tmp_path)
    assert [set(line["times"]) for line in lines] == [{"stn_jax", "packed"}] * 3
    assert max(line["accuracy"]["packed"]["largest"] for line in lines) < 1e-5
