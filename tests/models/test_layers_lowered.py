"""Which form of a convolution or a pooling is in a program, by its platform or as it is forced."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import SHAPES, assert_same, draw, ours, pool_derivatives, reduce_window, theirs
from jax import export, lax

from stn_jax.models import layers

CONVOLUTION = "stablehlo.convolution"


def lowered(function: Callable, *args: Any, platforms: tuple[str, ...]) -> str:
    return export.export(jax.jit(function), platforms=platforms)(*args).mlir_module()


class TestPlatforms:
    """A program holds the forms for the platforms that it is lowered for, not for this one."""

    def gradients(self, *args: Any) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *args: (ours(*args) ** 2).sum(), (0, 1))(*args)

    @pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
    def test_accelerators_are_given_plain_convolutions(self, platform):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        text = lowered(self.gradients, *arrays, platforms=(platform,))
        assert text.count(CONVOLUTION) == 3
        assert "dot_general" not in text

    def test_cpus_are_given_products(self, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        text = lowered(self.gradients, *draw(*SHAPES[1], dtype=np.float32), platforms=("cpu",))
        assert CONVOLUTION not in text
        assert "dot_general" in text

    def test_several_platforms_are_given_both(self):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        mapped = jax.vmap(self.gradients)
        for function, args in ((self.gradients, arrays), (mapped, [x[None] for x in arrays])):
            exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*args)
            text = exported.mlir_module()
            assert CONVOLUTION in text
            assert "dot_general" in text
            assert_same(exported.call(*args), function(*args), 1e-6)

    @pytest.mark.parametrize("precision", [None, "highest", lax.Precision.HIGH])
    def test_the_precision_is_the_one_asked_for(self, precision):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        texts = [
            lowered(
                lambda *args, conv=conv: jax.grad(
                    lambda *args: conv(*args, precision=precision).sum()
                )(*args),
                *arrays,
                platforms=("cuda",),
            )
            for conv in (ours, theirs)
        ]
        found, expected = (set(re.findall(r"#stablehlo<precision \w+>", text)) for text in texts)
        assert found == expected
        assert bool(found - {"#stablehlo<precision DEFAULT>"}) == (precision is not None)

    def test_the_precision_is_the_contexts_at_the_call(self):
        arrays = draw(*SHAPES[1], dtype=np.float32)
        with jax.default_matmul_precision("highest"):
            traced = jax.jit(lambda *args: ours(*args)).trace(*arrays)
        assert "HIGHEST" in traced.lower(lowering_platforms=("cuda",)).as_text()

    @pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
    def test_pooling_is_elementwise(self, dtype):
        x = jnp.ones((2, 7, 5, 3), dtype)
        pooled = jax.grad(lambda x: layers.max_pool(x).astype(np.float32).sum())
        text = lowered(pooled, x, platforms=("cuda",))
        assert "reduce_window" not in text
        assert "gather" not in text
        assert "select_and_scatter" not in text


class TestForcedImplementation:
    """It is part of the key by which programs are found again."""

    def test_of_a_convolution(self, used):
        x, kernel = draw(*SHAPES[1], dtype=np.float32)
        compiled = jax.jit(lambda *args: ours(*args))

        def text() -> str:
            return compiled.lower(x, kernel).as_text()

        assert CONVOLUTION not in text()
        value = compiled(x, kernel)
        with layers.force_implementation("lax"):
            assert CONVOLUTION in text()
            used.clear()
            assert_same(compiled(x, kernel), value, 1e-6)
            assert not used
        assert CONVOLUTION not in text()
        with layers.force_implementation("cpu"):
            accelerated = compiled.trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
        assert CONVOLUTION not in accelerated

    def test_of_a_convolution_without_jit(self, used):
        x, kernel = draw((2, 7, 8, 5), (3, 5, 5, 4), dtype=np.float32)
        value = ours(x, kernel)
        assert used
        used.clear()
        with layers.force_implementation("lax"):
            assert_same(ours(x, kernel), value, 1e-6)
        assert not used

    def test_of_pooling(self):
        (x,) = draw((2, 7, 5, 3), dtype=np.float32)
        compiled = jax.jit(lambda x: layers.max_pool(x))
        for name, there in ((None, False), ("lax", True), (None, False)):
            with layers.force_implementation(name):
                assert ("reduce_window" in compiled.lower(x).as_text()) == there

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_pooling_has_derivatives(self, dtype):
        x, dx = draw((2, 7, 5, 3), (2, 7, 5, 3), dtype=jnp.dtype(dtype))
        with layers.force_implementation("lax"):
            found = pool_derivatives(layers.max_pool, x, dx, 2)
        assert_same(found, pool_derivatives(reduce_window, x, dx, 2), 0)

    def test_another_name_is_rejected(self):
        with (
            layers.force_implementation("gpu"),
            pytest.raises(ValueError, match="force_implementation is 'gpu'; expected 'lax'"),
        ):
            ours(*draw(*SHAPES[1], dtype=np.float32))
