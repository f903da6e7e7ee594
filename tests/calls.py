"""A call of forward_train and backward as one thing: drawn, run by the library or the reference, and compared."""

from dataclasses import dataclass, field
from typing import Any

import lstm_rs
import numpy as np
import pytest
from hypothesis import strategies as st
from oracle import (
    CELLS,
    EVERY,
    assert_close,
    assert_same_bits,
    make_input,
    make_lengths,
    make_state,
    make_weights,
    named_arrays,
)

DTYPES = [np.float32, np.float64]


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
        """All that comes out, by name."""
        y, final, tape = module.forward_train(self.x, self.weights, self.state, **self.how)
        grads = module.backward(tape, self.dy, self.dstate, need_dx=self.need_dx)
        out = {"y": y, "final.h": final.h, "final.c": final.c, "tape.gates": tape.gates, "tape.c": tape.c}
        return out | gradients(grads)


def gradients(grads):
    """What a pass backward gave, by name: "d_x", "d_weights.w_ih", "d_state.h" and so on."""
    return {f"d_{name}": array for name, array in named_arrays(grads).items()}


def make_call(seed=0, cell="gers_1999", sizes=(5, 3, 2, 7), output_size=None, dtype=np.float64, **how):
    """A call with all there is: state, dy, dstate, bias. `sizes` are T, N, I, H, with N None for one sequence."""
    steps, batch, input_size, hidden_size = sizes
    rng = np.random.default_rng(seed)
    cell = EVERY[cell]
    weights = make_weights(rng, cell, input_size, hidden_size, output_size, dtype=dtype)
    x = make_input(rng, steps, batch, input_size, dtype)
    dy = make_input(rng, steps, batch, output_size or hidden_size, dtype)
    if how.get("batch_first") and batch is not None:
        x, dy = (np.ascontiguousarray(array.swapaxes(0, 1)) for array in (x, dy))
    state, dstate = (make_state(rng, batch, hidden_size, output_size, dtype) for _ in range(2))
    return Call(x, weights, state, dy, dstate, {"cell": cell} | how)


# Around the lane counts of all instruction sets (1, 2, 4, 8, 16), around a tile of four vectors, and primes.
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 23, 31, 32, 33, 37]


@st.composite
def any_calls(draw, dtype, cells=CELLS):
    """Calls of every kind: cells, sizes that straddle lane counts, and all that can be left out left out."""
    steps = draw(st.sampled_from([0, 1, 2, 3, 5, 8, 13]))
    batch = draw(st.sampled_from([None, 0, 1, 2, 3, 5, 7, 8, 9, 13, 17, 37]))
    sizes = steps, batch, draw(st.sampled_from([0, *WIDTHS])), draw(st.sampled_from(WIDTHS))
    call = make_call(
        seed=draw(st.integers(0, 2**32 - 1)),
        cell=draw(st.sampled_from(sorted(cells))),
        sizes=sizes,
        output_size=draw(st.none() | st.sampled_from([1, 2, 3, 8, 9, 17, 31])),
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
    return call


def assert_results_close(actual, expected, weights, at_least=0.0):
    """Hold results against the reference's, each by the tolerance for its kind."""
    assert actual.keys() == expected.keys()
    steps, batch, _, hidden_size = expected["tape.gates"].shape
    dtype = np.asarray(weights[0]).dtype
    for name, array in actual.items():
        assert array.dtype == dtype, f"{name} is {array.dtype}"
        assert_close(
            array,
            expected[name],
            steps=steps,
            batch=batch,
            input_size=np.shape(weights[0])[1],
            hidden_size=hidden_size,
            backward=name.startswith("d_"),
            over_batch=name.startswith("d_weights."),
            at_least=at_least,
            name=name,
        )


def assert_results_same(actual, expected, label="", names=None):
    """Hold results against others to the bit: all of them, or those that are named."""
    assert actual.keys() == expected.keys()
    for name in names or actual:
        assert_same_bits(actual[name], expected[name], f"{label} {name}".strip())


def refused(run, error, sentence=None, argument=None):
    """What `run` says when it refuses: `sentence`, or at least what every refusal has to say of its argument."""
    with pytest.raises(error) as caught:
        run()
    said = str(caught.value)
    assert type(caught.value) is error, f"a {type(caught.value).__name__} is another error than {error.__name__}"
    assert "\n" not in said
    if sentence is not None:
        assert said == sentence
    else:
        assert said.startswith(f"{argument}: expected ") and ", got " in said, said
    return said
