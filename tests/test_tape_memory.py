"""Large results live in memory that is used again: never while anybody still looks at it."""

import pickle

import lstm_rs
import numpy as np
import pytest

# Gates of 8 MB, states and outputs of 2 MB: large enough.
STEPS, BATCH, HIDDEN = 32, 64, 256


@pytest.fixture(scope="module")
def layer():
    return lstm_rs.LSTM(3, HIDDEN, seed=0)


def x(seed, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(STEPS, BATCH, 3)).astype(dtype)


def place(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_a_tape_is_gone(layer):
    tape = layer.forward_train(x(0))[2]
    first, gates = place(tape.layers[0].gates), tape.layers[0].gates.copy()
    assert first % 64 == 0
    del tape
    tape = layer.forward_train(x(0))[2]
    assert place(tape.layers[0].gates) == first
    np.testing.assert_array_equal(tape.layers[0].gates, gates)


def test_memory_that_is_looked_at_is_left_alone(layer):
    tapes = [layer.forward_train(x(seed))[2] for seed in range(4)]
    assert len({place(tape.layers[0].gates) for tape in tapes}) == 4
    seen = [tape.layers[0].gates[5, 7:9] for tape in tapes]
    before = [view.copy() for view in seen]
    del tapes
    for seed in range(4, 8):
        layer.forward_train(x(seed))
    for view, copy in zip(seen, before, strict=True):
        np.testing.assert_array_equal(view, copy)


def test_padding_is_zero_in_memory_that_held_something(layer):
    for _ in range(2):
        layer.forward_train(x(0))
        lengths = np.arange(BATCH) % (STEPS + 1)
        tape = layer.forward_train(x(1), lengths=lengths)[2].layers[0]
        past = np.arange(STEPS)[:, None] >= lengths
        assert not tape.gates[past].any() and not tape.c[past].any()
        del tape


def test_each_dtype_has_its_own(layer):
    double = lstm_rs.LSTM(3, HIDDEN, dtype=np.float64, seed=0)
    expected = double.forward_train(x(0, np.float64))[2].layers[0].gates.copy()
    for _ in range(2):
        layer.forward_train(x(0))
        np.testing.assert_array_equal(double.forward_train(x(0, np.float64))[2].layers[0].gates, expected)


def test_such_a_tape_pickles_and_can_be_used_twice(layer):
    y, _, tape = layer.forward_train(x(0))
    again = pickle.loads(pickle.dumps(tape))
    one, two, three = (layer.backward(tape, y), layer.backward(again, y), layer.backward(tape, y))
    for name, gradient in one.weights.items():
        np.testing.assert_array_equal(two.weights[name], gradient)
        np.testing.assert_array_equal(three.weights[name], gradient)


def test_no_more_than_so_much_is_kept():
    statm = pytest.importorskip("pathlib").Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("there is no /proc")

    def resident():
        return int(statm.read_text().split()[1]) * 4096

    layer = lstm_rs.LSTM(1, 512, seed=0)
    big = np.zeros((100, 128, 1), dtype=np.float32)  # gates of 105 MB, states and outputs of 26 MB
    before = resident()
    results = [layer.forward_train(big) for _ in range(4)]
    assert resident() - before > 550e6
    del results
    # 256 MiB, and what a workspace takes.
    assert resident() - before < 268.5e6 + 30e6


def test_sizes_out_of_use_make_room(layer):
    """More than is ever kept, of sizes that do not serve: what is in use is kept all the same."""
    others = [layer.forward_train(np.zeros((steps, BATCH, 3), dtype=np.float32)) for steps in range(70, 98, 2)]
    del others
    places = []
    for _ in range(3):
        tape = layer.forward_train(x(0))[2]
        places.append(place(tape.layers[0].gates))
        size = tape.layers[0].gates.nbytes
        del tape
        # What is given back to the system, whoever asks next may have.
        taken = [np.ones(size, dtype=np.uint8) for _ in range(2)]
    assert len(set(places)) == 1 and not {place(array) for array in taken} & set(places)
