"""Functions that are compiled as a whole: when, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax.warp.compiled import compiled

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def traced():
    return []


@pytest.fixture
def scaled(traced):
    @compiled("x")
    def scaled(x, by=1.0, *, sizes=(1,)):
        traced.append((by, sizes))
        if isinstance(x, str):
            raise TypeError(f"x is {x!r}; expected an array")
        return jnp.asarray(x) * by * len(sizes)

    return scaled


def test_once_for_types_and_constants(scaled, traced):
    for _ in range(2):
        assert float(scaled(X, 2.0)[1, 2]) == 10
        assert float(scaled(x=X + 1, by=2.0)[1, 2]) == 12
        assert float(scaled(X, sizes=[1, 2])[1, 2]) == 10
    assert traced == [(2.0, (1,)), (1.0, [1, 2])]
    scaled(X.astype(np.float16), 2.0)
    assert len(traced) == 3


def test_equal_constants_of_other_types_are_told_apart(scaled, traced):
    for by in (1, True, 1.0, np.float32(1), np.ones(3, np.float32), np.ones(3, np.int32)):
        scaled(X, by)
        scaled(X, by)
    assert len(traced) == 6


def test_arrays_among_the_other_arguments_are_traced(scaled, traced):
    for by in (2.0, 3.0):
        assert float(scaled(X, jnp.float32(by))[1, 2]) == 5 * by
    assert len(traced) == 1
    assert jax.grad(lambda by: scaled(X, by).sum())(2.0) == X.sum()


@pytest.mark.parametrize("by", [{1: 2}, {1, 2}])
def test_what_is_no_argument_of_a_program_reaches_the_function(scaled, by):
    with pytest.raises(TypeError, match="x is 'text'; expected an array"):
        scaled("text")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        scaled()
    with pytest.raises(TypeError, match=r"unsupported operand|Unexpected input type"):
        scaled(X, by)


def test_a_name_that_is_no_argument():
    with pytest.raises(ValueError, match=r"f has no arguments named \['y'\]"):

        @compiled("y")
        def f(x):
            return x


def test_it_leaves_no_trace_in_other_programs(scaled):
    assert "call" not in jax.jit(lambda x: scaled(x) + 1).lower(X).as_text()
    assert scaled(X).tolist() == jax.jit(scaled)(X).tolist()
    with jax.disable_jit():
        assert scaled(X).tolist() == X.tolist()


def test_an_operation_is_one_program(caplog):
    boxes = np.array([[1.0, 2, 7, 9], [0, 0, 5, 5]], np.float32)
    image = np.ones((17, 11, 3), np.float32)  # of a size that no other test has
    for compilations in (1, 0):
        caplog.clear()
        with jax.log_compiles():
            found = stn_jax.roi_align(image, boxes, (3, 2))
        done = [text for text in caplog.messages if text.startswith("Finished XLA compilation")]
        assert (found.shape, len(done)) == ((2, 3, 2, 3), compilations)
