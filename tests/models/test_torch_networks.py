"""The networks give what the same networks give in PyTorch: logits, poses, loss and gradients.

Recorded numbers are met everywhere, in float32; a sweep of further networks, where PyTorch is
installed, in float64. All of PyTorch's numbers are float64.
"""

import copy
import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util
from record_torch_networks import (
    FILE,
    RECORDED,
    SWEPT,
    Case,
    inputs,
    summary,
    torch_results,
)

from stn_jax import create_model, interop

# All is of order 1 or divided by its scale, and off by 2e-6 at most; that is some ten roundings of
# float32, which is what sums of thousands of products gather. A tenth of a pooling window's or a
# pixel's worth of a mistake is 1e-3 and more.
TOLERANCE = 1e-5
DOUBLE_TOLERANCE = 1e-10


@functools.cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def our_results(case: Case, arrays: dict[str, Any]) -> dict[str, Any]:
    """Ours, in the form of ``torch_results``."""
    model = create_model(case.task, case.variant, **case.options)

    def loss(params):
        logits, details = model.apply({"params": params}, arrays["images"], return_details=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, arrays["labels"])
        return losses.sum() / len(losses), (logits, details.theta)

    step = compiled(jax.value_and_grad(loss, has_aux=True), arrays["params"])
    (value, (logits, theta)), gradients = step(arrays["params"])
    found = {"logits": logits, "loss": value, "gradients": gradients}
    return found | ({} if theta is None else {"theta": theta})


def compiled(fn, *args):
    """Compiled in a hurry: each is run once, and optimizing would take most of the time."""
    lowered = jax.jit(fn).lower(*args)
    unoptimized = {"xla_backend_optimization_level": 0}
    try:
        return lowered.compile({**unoptimized, "xla_cpu_use_fusion_emitters": False})
    except jax.errors.JaxRuntimeError:  # a version of XLA without this option
        return lowered.compile(unoptimized)


def assert_close(
    ours: Any, theirs: np.ndarray, scale: float, what: str, tolerance: float = TOLERANCE
) -> None:
    assert ours.shape == theirs.shape, what
    error = np.abs(np.asarray(ours, np.float64) - theirs).max() / scale
    assert error <= tolerance, f"{what} is off by {error:.1e}"


def assert_outputs_agree(
    ours: dict[str, Any], theirs: dict[str, Any], tolerance: float = TOLERANCE
) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"gradients"}:
        assert_close(ours[name], theirs[name], np.abs(theirs[name]).max(), name, tolerance)


@pytest.mark.thin(
    *("rotated_mnist-cnn", "rotated_mnist-stn-c1", "rotated_mnist-stn-dl1"),
    *("rotated_mnist-stn-sl1-iterations_2", "translated_mnist-stn-c0"),
    *("scaled_mnist-stn-sl1-width_0.0625", "svhn-stn-c3-width_0.0625"),
)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_recorded_networks_are_met_within_1e_5_in_float32(case):
    theirs = {
        key.removeprefix(f"{case.name}/"): value
        for key, value in recorded().items()
        if key.startswith(f"{case.name}/")
    }
    ours = our_results(case, inputs(case, int(theirs.pop("seed"))))
    assert_outputs_agree(ours, theirs)
    rows, expected = summary(ours["gradients"]), theirs["gradients"]
    assert rows.shape == expected.shape
    names = sorted(traverse_util.flatten_dict(ours["gradients"], sep="/"))
    for name, row, other in zip(names, rows, expected, strict=True):
        assert_close(row, other, other[0], name)  # other[0] is the leaf's norm


def widened(x: Any) -> Any:
    return np.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else x


@pytest.mark.slow
@pytest.mark.parametrize("case", SWEPT, ids=lambda case: case.name)
def test_further_networks_and_their_whole_gradients_are_met_too(case):
    pytest.importorskip("torch")
    arrays = inputs(case, int(recorded()[f"{case.name}/seed"]))
    theirs = torch_results(case, arrays)
    with jax.enable_x64(True):
        ours = our_results(case, jax.tree.map(widened, arrays))
    assert_outputs_agree(ours, theirs, DOUBLE_TOLERANCE)
    gradients, others = (traverse_util.flatten_dict(found["gradients"]) for found in (ours, theirs))
    assert gradients.keys() == others.keys()
    for path, other in others.items():
        # A bias's gradient is a sum like its kernel's, and may cancel: the layer's is its scale.
        scale = max(np.abs(others[*path[:-1], leaf]).max() for leaf in ("kernel", "bias"))
        assert_close(gradients[path], other, scale, "/".join(path), DOUBLE_TOLERANCE)
        assert np.abs(other).max() > 1e-3, f"{'/'.join(path)} is not put to the test"


class TestTransferOfParameters:
    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")

    @pytest.mark.parametrize("variant", ["cnn", "stn-c0", "stn-dl1"])
    def test_there_and_back_changes_nothing(self, variant):
        params = inputs(Case.of("translated_mnist", variant, width=1 / 16), 0)["params"]
        module = interop.create("translated_mnist", variant, width=1 / 16)
        interop.load_flax(module, params)
        back = interop.to_flax(module)
        jax.tree.map(np.testing.assert_array_equal, back, params)

    def test_height_and_width_are_distinguished(self):
        import torch

        torch.manual_seed(0)
        # Smooth, as images are: of white noise a rounding of a position is a rounding of the value.
        images = 5 * torch.nn.functional.avg_pool2d(torch.randn(2, 1, 64, 80), 5, 1)
        which, options = ("translated_mnist", "stn-c0"), {"width": 1 / 16, "downsample": 1}
        module, again = (
            interop.create(*which, image_shape=(1, 60, 76), **options) for _ in range(2)
        )
        with torch.no_grad():
            module.transformer.theta.weight.normal_(0, 0.1)
        params = interop.to_flax(module)
        with torch.no_grad():
            expected = copy.deepcopy(module).double()(images.double()).numpy()

        args = {"params": params}, images.permute(0, 2, 3, 1).numpy()
        logits = compiled(create_model(*which, **options).apply, *args)(*args)
        assert_close(logits, expected, np.abs(expected).max(), "logits")

        interop.load_flax(again, params)
        assert all(map(torch.equal, again.parameters(), module.parameters()))

    def test_another_network_is_refused(self):
        params = inputs(Case.of("rotated_mnist", "stn-c1", width=1 / 16), 0)["params"]
        with pytest.raises(ValueError, match=r"not in both: .*transformer/theta/bias"):
            interop.load_flax(interop.create("rotated_mnist", "cnn", width=1 / 16), params)
        with pytest.raises(ValueError, match=r"kernel has shape \[9, 9, 1, 4\]; expected .*, 8\]"):
            interop.load_flax(interop.create("rotated_mnist", "stn-c1", width=1 / 8), params)

    def test_gradients_want_a_backward_pass(self):
        with pytest.raises(ValueError, match="blocks_0/conv/kernel has no gradient"):
            interop.to_flax(interop.create("rotated_mnist", "cnn"), gradients=True)
