"""A tape that does not fit together, however it came about, is an error that names the part, and never a crash."""

import lstm_rs
import numpy as np
import pytest
from calls import make_call, refused
from lstm_rs import LSTM, CellSpec, LSTMTape, Tape

T, N, I, H, P = 4, 3, 2, 5, 6  # noqa: E741  the letters of the axes


def drawn():
    return make_call(0, "peephole_lstm", (T, N, I, H), P, np.float32)


def test_backward_takes_a_tape():
    call = drawn()
    out = lstm_rs.forward_train(call.x, call.weights, call.state, **call.how)
    for wrong, got in ((None, "NoneType"), (out, "tuple"), (out[0], "ndarray"), ("tape", "str")):
        said = refused(lambda wrong=wrong: lstm_rs.backward(wrong), TypeError, argument="tape")
        assert f"expected a Tape, got {got}; " in said and "forward_train" in said


TAMPERED = {
    "gates one step short": (("gates", lambda a: a[1:].copy()), ValueError, "tape.gates"),
    "gates of one gate less": (("gates", lambda a: a[:, :, 1:].copy()), ValueError, "tape.gates"),
    "gates of fewer axes": (("gates", lambda a: a[0].copy()), ValueError, "tape.gates"),
    "gates empty": (("gates", lambda a: a[:0].copy()), ValueError, "tape.gates"),
    "gates of float64": (("gates", lambda a: a.astype(float)), TypeError, "tape.gates"),
    "gates None": (("gates", lambda a: None), TypeError, "tape.gates"),
    "gates a list": (("gates", lambda a: a.tolist()), TypeError, "tape.gates"),
    "c swapped": (("c", lambda a: a.swapaxes(0, 1).copy()), ValueError, "tape.c"),
    "c narrower": (("c", lambda a: a[..., 1:].copy()), ValueError, "tape.c"),
    "c of integers": (("c", lambda a: a.astype(int)), TypeError, "tape.c"),
    "x one step short": (("x", lambda a: a[1:]), ValueError, "tape.y"),
    "x one sequence": (("x", lambda a: a[:, 0]), ValueError, "tape.state.h"),
    "x wider": (("x", lambda a: np.concatenate([a, a], axis=-1)), ValueError, "x"),
    "x of float64": (("x", lambda a: a.astype(float)), TypeError, "tape.x"),
    "x None": (("x", lambda a: None), TypeError, "tape.x"),
    "y narrower": (("y", lambda a: a[..., 1:]), ValueError, "tape.y"),
    "y None": (("y", lambda a: None), TypeError, "tape.y"),
    "weights fewer": (("weights", lambda w: w[:2]), ValueError, "w_hh"),
    "weights None": (("weights", lambda w: None), TypeError, "weights"),
    "weights of float64": (("weights", lambda w: [a.astype(float) for a in w]), TypeError, "tape.x"),
    "state shorter": (("state", lambda s: (s[0][1:], s[1])), ValueError, "tape.state.h"),
    "state of one": (("state", lambda s: s[:1]), TypeError, "tape.state"),
    "lengths too long": (("lengths", lambda _: np.array([T + 1, 1, 1])), ValueError, "lengths[0]"),
    "lengths negative": (("lengths", lambda _: np.array([1, -1, 1])), ValueError, "lengths[1]"),
    "lengths too many": (("lengths", lambda _: np.array([1, 1, 1, 1])), ValueError, "lengths"),
    "lengths of floats": (("lengths", lambda _: np.ones(3)), TypeError, "lengths"),
    "lengths an int": (("lengths", lambda _: 1), ValueError, "lengths"),
    "cell another": (("cell", lambda _: CellSpec()), ValueError, "peephole"),
    "cell None": (("cell", lambda _: None), TypeError, "cell"),
    "reverse an int": (("reverse", lambda _: 1), TypeError, "tape.reverse"),
    "batch_first turned": (("batch_first", lambda _: True), ValueError, "tape.state.h"),
}


def parts_of_a_tape():
    call = drawn()
    tape = lstm_rs.forward_train(call.x, call.weights, call.state, **call.how)[2]
    return {name: getattr(tape, name) for name in Tape.__slots__ if not name.startswith("_")}


@pytest.mark.parametrize(("change", "error", "blamed"), TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_tape_is_an_error_and_no_crash(change, error, blamed):
    parts = parts_of_a_tape()
    name, changed = change
    parts[name] = changed(parts[name])
    refused(lambda: lstm_rs.backward(Tape(**parts)), error, argument=blamed)


def test_a_tape_needs_all_its_parts_and_no_others():
    parts = parts_of_a_tape()
    lstm_rs.backward(Tape(**parts))
    with pytest.raises(TypeError, match=r"^Tape: missing .*gates"):
        Tape(**{name: part for name, part in parts.items() if name != "gates"})
    with pytest.raises(TypeError, match=r"^Tape: .*unknown .*extra"):
        Tape(**parts, extra=1)


def test_wrong_numbers_in_a_tape_are_only_numbers():
    parts = parts_of_a_tape()
    for poison in (np.nan, np.inf, -1e30, 1e30):
        parts["gates"] = np.full_like(parts["gates"], poison)
        grads = lstm_rs.backward(Tape(**parts))
        assert grads.x.shape == (T, N, I)


SHAPES = {"one sequence": (T, I), "a batch": (T, N, I), "a larger batch": (T, N + 1, I), "fewer steps": (T - 1, N, I)}


@pytest.mark.parametrize("below", SHAPES)
@pytest.mark.parametrize("above", SHAPES)
def test_a_tape_of_layers_of_several_calls(below, above):
    layer = LSTM(I, I, num_layers=2, seed=0)
    one, two = (layer.forward_train(np.ones(SHAPES[name], np.float32))[2] for name in (below, above))
    mixed = LSTMTape((one.layers[0], two.layers[1]), (None,))
    if below == above:
        layer.backward(mixed)
    else:
        refused(lambda: layer.backward(mixed), ValueError, argument="tape.x")


@pytest.mark.parametrize(("shape", "dtype", "error"), [((T, N, I), "f8", TypeError), ((2, T, N, I), "f4", ValueError)])
def test_a_tape_with_a_mask_that_does_not_fit(shape, dtype, error):
    layer = LSTM(I, I, num_layers=2, seed=0)
    tape = layer.forward_train(np.ones((T, N, I), np.float32))[2]
    mixed = LSTMTape(tape.layers, (np.ones(shape, dtype),))
    refused(lambda: layer.backward(mixed), error, argument="tape.dropout")
