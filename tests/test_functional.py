"""forward, forward_train and backward against the reference, on every instruction set by name."""

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import lstm_rs
import numpy as np
import pytest
from conftest import ISAS, using
from hypothesis import given, note
from hypothesis import strategies as st
from lstm_rs import State, Tape, Weights, reference
from oracle import (
    CELLS,
    PRESETS,
    assert_close,
    assert_gradients_close,
    assert_same_bits,
    make_input,
    make_lengths,
    make_state,
    make_weights,
    named_arrays,
)

DTYPES = [np.float32, np.float64]

# ----------------------------- calls


@dataclass
class Call:
    """All that a pass forward and a pass backward take."""

    x: Any
    weights: Any
    state: Any = None
    dy: Any = None
    dstate: Any = None
    how: dict = field(default_factory=dict)
    need_dx: bool = True

    def run(self, module=lstm_rs):
        y, final, tape = module.forward_train(self.x, self.weights, self.state, **self.how)
        return y, final, tape, module.backward(tape, self.dy, self.dstate, need_dx=self.need_dx)


def make_call(seed=0, cell="gers_1999", sizes=(5, 3, 2, 7), output_size=None, dtype=np.float64, **how):
    """A call with all there is: state, dy, dstate, bias; `sizes` are T, N, I, H, with N None for one sequence."""
    steps, batch, input_size, hidden_size = sizes
    rng = np.random.default_rng(seed)
    cell = CELLS[cell]
    weights = make_weights(rng, cell, input_size, hidden_size, output_size, dtype=dtype)
    x = make_input(rng, steps, batch, input_size, dtype)
    dy = make_input(rng, steps, batch, output_size or hidden_size, dtype)
    if how.get("batch_first") and batch is not None:
        x, dy = (np.ascontiguousarray(array.swapaxes(0, 1)) for array in (x, dy))
    state, dstate = (make_state(rng, batch, hidden_size, output_size, dtype) for _ in range(2))
    return Call(x, weights, state, dy, dstate, {"cell": cell} | how)


def arrays_of(y, final, tape, grads):
    """All that came out of a call, by name."""
    forward = {"y": y, "final.h": final.h, "final.c": final.c, "tape.gates": tape.gates, "tape.c": tape.c}
    return forward | {f"d_{name}": array for name, array in named_arrays(grads).items()}


def assert_all_same(actual, expected, label=""):
    actual, expected = arrays_of(*actual), arrays_of(*expected)
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert_same_bits(array, expected[name], f"{label} {name}".strip())


def check(call, at_least=0.0):
    """Hold everything a call gives against the reference."""
    y, final, tape, grads = call.run()
    y_r, final_r, tape_r, grads_r = call.run(reference)
    steps, batch, _, hidden_size = tape.gates.shape
    input_size = np.shape(call.weights[0])[1]
    sizes = {"steps": steps, "batch": batch, "input_size": input_size, "hidden_size": hidden_size}
    dtype = np.asarray(call.weights[0]).dtype
    for name, actual, expected in (
        ("y", y, y_r),
        ("final.h", final.h, final_r.h),
        ("final.c", final.c, final_r.c),
        ("tape.gates", tape.gates, tape_r.gates),
        ("tape.c", tape.c, tape_r.c),
    ):
        assert actual.dtype == dtype, name
        assert_close(actual, expected, **sizes, at_least=at_least, name=name)
    assert all(array.dtype == dtype for array in named_arrays(grads).values())
    assert_gradients_close(grads, grads_r, **sizes, at_least=at_least)
    # Without a tape it is the same.
    y_2, final_2 = lstm_rs.forward(call.x, call.weights, call.state, **call.how)
    for actual, expected in ((y_2, y), (final_2.h, final.h), (final_2.c, final.c)):
        assert_same_bits(actual, expected)


# ----------------------------- against the reference

# Around the lane counts of all instruction sets (1, 2, 4, 8, 16), around a tile's width of four vectors, and primes.
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 23, 31, 32, 33, 37]


@st.composite
def calls(draw, dtype):
    steps = draw(st.sampled_from([0, 1, 2, 3, 5, 8, 13]))
    batch = draw(st.sampled_from([None, 0, 1, 2, 3, 5, 7, 8, 9, 13, 17, 37]))
    input_size = draw(st.sampled_from([0, *WIDTHS]))
    hidden_size = draw(st.sampled_from(WIDTHS))
    output_size = draw(st.none() | st.sampled_from([1, 2, 3, 8, 9, 17, 31]))
    call = make_call(
        seed=draw(st.integers(0, 2**32 - 1)),
        cell=draw(st.sampled_from(sorted(CELLS))),
        sizes=(steps, batch, input_size, hidden_size),
        output_size=output_size,
        dtype=dtype,
        reverse=draw(st.booleans()),
        batch_first=draw(st.booleans()),
    )
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        lengths = make_lengths(rng, steps, 1 if batch is None else batch)
        call.how["lengths"] = int(lengths[0]) if batch is None else lengths
    if draw(st.booleans()):
        call.weights = call.weights._replace(b=None)
    for name in draw(st.sets(st.sampled_from(["state", "dy", "dstate"]))):
        setattr(call, name, None)
    call.need_dx = draw(st.booleans())
    note(f"T, N, I, H, P = {steps, batch, input_size, hidden_size, output_size}, {call.how}")
    return call


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_any_call_is_the_reference(isa, dtype, data):
    # Arrays of one or two elements may cancel: states and gradients are of the order of 1.
    check(data.draw(calls(dtype)), at_least=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_the_reference(isa, cell, dtype):
    check(make_call(1, cell, (6, 4, 3, 9), dtype=dtype, lengths=[6, 0, 3, 5]))
    check(make_call(2, cell, (6, 4, 3, 9), 5, dtype=dtype, lengths=[6, 0, 3, 5], reverse=True))


# Across the engine's inner boundaries: several chunks of time, more than 60 rows, several sums of 256 steps, and widths
# that are no multiple of a vector.
LARGE = [(100, 5, 11, 37), (9, 70, 19, 61), (300, None, 5, 23), (30, 33, 130, 97)]


@pytest.mark.parametrize("sizes", LARGE, ids=str)
@pytest.mark.parametrize("cell", ["gers_1999", "peephole_lstm", "CIFG"])
def test_large_calls_are_the_reference(isa, cell, sizes):
    projected = {"gers_1999": None, "peephole_lstm": 29, "CIFG": None}[cell]
    for dtype in DTYPES:
        call = make_call(3, cell, sizes, projected, dtype, batch_first=dtype is np.float32)
        check(call)
        if sizes[1] is not None:
            call.how["lengths"] = make_lengths(np.random.default_rng(4), *sizes[:2])
            check(call)


def test_a_wrong_result_is_seen(monkeypatch):
    """The check can fail: one element of one result, moved by far less than it is large."""
    for name in arrays_of(*make_call(output_size=4, cell="peephole_lstm").run()):
        original = lstm_rs.backward if name.startswith("d_") else lstm_rs.forward_train

        def wrong(*args, name=name, original=original, **how):
            out = original(*args, **how)
            y, final, tape = (None, State(None, None), None) if name.startswith("d_") else out
            found = {f"d_{k}": v for k, v in named_arrays(out).items()} if name.startswith("d_") else {
                "y": y, "final.h": final.h, "final.c": final.c, "tape.gates": tape.gates, "tape.c": tape.c
            }  # fmt: skip
            array = found[name]
            array.flags.writeable = True
            array.flat[array.size // 2] += 1e-9
            return out

        with monkeypatch.context() as patch:
            patch.setattr(lstm_rs, original.__name__, wrong)
            with pytest.raises(AssertionError, match=name.replace("final.", r"final\.").replace("d_", "d_")):
                check(make_call(output_size=4, cell="peephole_lstm"))
    check(make_call(output_size=4, cell="peephole_lstm"))
