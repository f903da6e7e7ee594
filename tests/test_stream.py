"""A stream, step by step, against the whole sequence: the same bits."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lstm_rs import LSTM, State
from oracle import PRESETS, assert_same_bits, make_input
from stacked import make_layer, make_run

LAYERS = {
    "one": {},
    "one_projected": {"proj_size": 3},
    "three": {"num_layers": 3},
    "three_projected": {"num_layers": 3, "proj_size": 3, "batch_first": True},
    "three_float64": {"num_layers": 3, "dtype": np.float64, "bias": False},
    "hochreiter_1997": {"cell": PRESETS["hochreiter_1997"]},
    "CIFG": {"num_layers": 2, "cell": PRESETS["CIFG"]},
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    return made(**request.param)


def made(num_layers=1, **options):
    return make_layer(np.random.default_rng(0), 4, 7, num_layers, **options)


def whole(layer, x, state=None):
    """The layer over all steps (T, N, I), whichever axis it takes first."""
    y, final = layer(x.swapaxes(0, 1) if layer.batch_first else x, state)
    return y.swapaxes(0, 1) if layer.batch_first else y, final


def same_state(actual, wanted):
    assert isinstance(actual, State)
    assert_same_bits(actual.h, np.ascontiguousarray(wanted.h), "h")
    assert_same_bits(actual.c, np.ascontiguousarray(wanted.c), "c")


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("to", ["new arrays", "out"])
def test_steps_are_the_whole(isa, layer, batch, to):
    rng = np.random.default_rng(1)
    run = make_run(layer, rng, 9, batch, lengths=False)
    x = run.x.swapaxes(0, 1) if layer.batch_first else run.x
    for state in (None, run.state):
        wanted, final = whole(layer, x, state)
        stream = layer.stream(batch)
        if state is not None:
            stream.state = tuple(state)
        for t in range(9):
            out = np.full(wanted[t].shape, np.nan, layer.dtype) if to == "out" else None
            y_t = stream.step(x[t], out=out)
            assert out is None or y_t is out
            assert_same_bits(y_t, np.ascontiguousarray(wanted[t]), f"step {t}")
        same_state(stream.state, final)


def test_one_sequence_needs_no_batch_axis(layer):
    x = make_input(np.random.default_rng(2), 6, None, 4, layer.dtype)
    wanted, final = layer(x)
    stream = layer.stream()
    for t in range(6):
        out = np.empty(wanted.shape[1:], layer.dtype) if t % 2 else None
        # With the axis and without it, in turn.
        y_t = stream.step(x[t], out) if t % 3 else stream.step(x[None, t])[0]
        assert_same_bits(y_t, wanted[t], f"step {t}")
    same_state(stream.state, State(final.h[:, None], final.c[:, None]))


def test_out_may_be_a_part_of_an_array_and_a_list_may_come_in():
    layer = made(num_layers=2, dtype=np.float64)
    x = make_input(np.random.default_rng(3), 5, 2, 4)
    wanted, _ = layer(x)
    stream, y = layer.stream(2), np.zeros((5, 2, 9))
    for t in range(5):
        stream.step(x[t].tolist(), out=y[t, :, 1:8])
    assert_same_bits(y[..., 1:8].copy(), wanted)
    assert not y[..., [0, 8]].any(), "nothing is written beside it"


def test_the_state_is_given_and_taken_as_a_copy(layer):
    rng = np.random.default_rng(4)
    x = make_input(rng, 6, 2, 4, layer.dtype)
    wanted, _ = whole(layer, x)
    stream = layer.stream(2)
    for t in range(3):
        stream.step(x[t])
    saved = stream.state
    for array in stream.state:
        array[...] = 9.0
    other = layer.stream(2)
    mine = State(*(array.copy() for array in saved))
    other.state = mine
    for array in mine:
        array[...] = 9.0
    for run in (stream, other):
        same_state(run.state, saved)
        for t in range(3, 6):
            assert_same_bits(run.step(x[t]), np.ascontiguousarray(wanted[t]), f"step {t}")
    other.state = (saved.h.astype(saved.h.dtype.newbyteorder()), np.asfortranarray(saved.c))
    assert_same_bits(other.step(x[3]), np.ascontiguousarray(wanted[3]))


def test_streams_share_their_weights_and_reset_takes_the_newest():
    layer, x = made(num_layers=2), make_input(np.random.default_rng(5), 4, None, 4, np.float32)
    before, _ = layer(x)
    one, two = layer.stream(), layer.stream()
    assert one._snapshot is two._snapshot
    assert_same_bits(one.step(x[0]), before[0])
    with layer.edit() as w:
        w["weight_hh_l1"] *= -1
        w["bias_l0"] += 1
    after, _ = layer(x)
    assert (after != before).all()
    for t in range(4):
        assert_same_bits(two.step(x[t]), before[t], "a stream stays on its weights")
    assert_same_bits(one.step(x[1]), before[1])
    assert_same_bits(layer.stream().step(x[0]), after[0])
    for stream in (one, two):
        stream.reset()
        assert not any(array.any() for array in stream.state)
        for t in range(4):
            assert_same_bits(stream.step(x[t]), after[t], "reset takes the newest")


def test_threads_run_streams_of_one_layer_side_by_side():
    """Steps of more than 10 us, so that they do run side by side."""
    layer = make_layer(np.random.default_rng(0), 40, 200, 3)
    inputs = [make_input(np.random.default_rng(k), 60, None, 40, np.float32) for k in range(4)]
    wanted = [layer(x)[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        streams = [layer.stream() for _ in inputs]
        found = list(pool.map(lambda stream, x: np.stack([stream.step(x_t) for x_t in x]), streams, inputs))
    assert len({id(stream._snapshot) for stream in streams}) == 1
    for actual, expected in zip(found, wanted, strict=True):
        assert_same_bits(actual, expected)


def test_a_stream_is_refused_to_who_comes_in_the_middle_of_a_step():
    stream, x, refused = made().stream(), np.ones(4, np.float32), []
    saved = stream.state

    class InTheMiddle:
        def __array__(self, dtype=None, copy=None):
            for does in (lambda: stream.state, lambda: stream.step(x), lambda: setattr(stream, "state", saved)):
                with pytest.raises(RuntimeError, match="stream: a step is under way; a stream belongs to one thread"):
                    does()
                refused.append(does)
            return x

    y = stream.step(InTheMiddle())
    assert len(refused) == 3
    stream.state = saved
    assert_same_bits(stream.step(x), y)


def frozen(array):
    array.flags.writeable = False
    return array


F4 = np.float32
X = np.ones((2, 4), F4)


@pytest.mark.parametrize(
    ("x", "out", "error", "text"),
    [
        (X[:, :3], None, ValueError, r"x_t: expected shape \(2, 4\), got \(2, 3\)"),
        (X[:1], None, ValueError, r"x_t: expected shape \(2, 4\), got \(1, 4\)"),
        (X[0], None, ValueError, r"x_t: expected shape \(2, 4\), got \(4,\)"),
        (X[None], None, ValueError, r"x_t: expected shape \(2, 4\), got \(1, 2, 4\)"),
        (F4(1), None, ValueError, r"x_t: expected shape \(2, 4\), got \(\)"),
        (X.astype(float), None, TypeError, "x_t: expected float32, .*got float64; cast it"),
        (X.tolist(), None, TypeError, "x_t: expected float32, .*got float64; cast it"),
        (X, np.zeros((2, 6), F4), ValueError, r"out: expected an array of shape \(2, 7\), got \(2, 6\)"),
        (X, [[0.0] * 7] * 2, ValueError, r"out: expected an array of shape \(2, 7\), got list"),
        (X, np.zeros((2, 7)), TypeError, "out: expected a float32 array"),
        (X, np.zeros((7, 2), F4).T, ValueError, "out: expected a writable, aligned array"),
        (X, frozen(np.zeros((2, 7), F4)), ValueError, "out: expected a writable, aligned array"),
    ],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_that_is_refused_leaves_the_state(x, out, error, text, layers):
    stream = made(num_layers=layers).stream(2)
    stream.step(X)
    before = stream.state
    with pytest.raises(error, match=f"^{text}"):
        stream.step(x, out)
    same_state(stream.state, before)


def test_out_must_not_be_the_input():
    square = LSTM(4, 4, seed=0).stream()
    x = np.ones(4, F4)
    with pytest.raises(ValueError, match=r"^out: shares memory with an input"):
        square.step(x, out=x)


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ((np.zeros((1, 7), F4), np.zeros((2, 2, 7), F4)), ValueError, r"state.h: expected shape \(2, 2, 7\)"),
        ((np.zeros((2, 2, 7), F4), np.zeros((2, 1, 7), F4)), ValueError, r"state.c: expected shape \(2, 2, 7\)"),
        ((np.zeros((2, 2, 7), F4), np.zeros((2, 2, 7))), TypeError, "state.c: expected float32, .*got float64"),
        ((np.zeros((2, 2, 7), int), np.zeros((2, 2, 7), F4)), TypeError, "state.h: expected float32, .*got int64"),
        (np.zeros((2, 2, 7), F4), TypeError, "state: expected a State or another tuple .* got ndarray"),
        (None, TypeError, r"state: expected a State or another tuple .* got None; start again with reset\(\)"),
    ],
)
def test_a_state_that_is_refused_is_not_taken(state, error, text):
    stream = made(num_layers=2).stream(2)
    stream.step(X)
    before = stream.state
    with pytest.raises(error, match=f"^{text}"):
        stream.state = state
    same_state(stream.state, before)


def test_streams_that_cannot_be():
    with pytest.raises(ValueError, match=r"^stream: .*bidirectional=False"):
        LSTM(3, 4, bidirectional=True).stream()
    with pytest.raises(ValueError, match=r"^batch_size: expected at least 1, got 0"):
        LSTM(3, 4).stream(0)
    with pytest.raises(TypeError, match=r"^batch_size: expected an int, got float"):
        LSTM(3, 4).stream(1.0)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_is_not_copied_by_halves(how):
    """A copy that shares the state would move on with the stream that it is of."""
    with pytest.raises(TypeError, match=r"^stream: cannot be copied or pickled; make another with LSTM.stream"):
        how(made().stream())


def test_no_input_is_a_stream_too():
    layer = LSTM(0, 5, seed=0)
    y, _ = layer(np.zeros((3, 0), F4))
    stream = layer.stream()
    for t in range(3):
        assert_same_bits(stream.step(np.zeros(0, F4)), y[t])
