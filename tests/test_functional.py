"""forward, forward_train and backward: right on every instruction set, whatever they are called with."""

import copy
import pickle

import lstm_rs
import numpy as np
import pytest
from calls import DTYPES, any_calls, assert_results_close, assert_results_same, gradients, make_call
from hypothesis import given, note
from hypothesis import strategies as st
from lstm_rs import State, Tape, Weights, reference
from oracle import EVERY, PRESETS, assert_same_bits, make_lengths


def check(call, at_least=0.0):
    """Hold everything a call gives against the reference."""
    actual = call.run()
    assert_results_close(actual, call.run(reference), call.weights, at_least)
    y, final = lstm_rs.forward(call.x, call.weights, call.state, **call.how)
    for array, name in ((y, "y"), (final.h, "final.h"), (final.c, "final.c")):
        assert_same_bits(array, actual[name], f"without a tape: {name}")


# ----------------------------- against the reference


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_any_call_is_the_reference(isa, dtype, data):
    call = data.draw(any_calls(dtype))
    note(f"x {call.x.shape}, w_hh {call.weights.w_hh.shape}, {call.how}")
    # Arrays of one or two elements may cancel; states and gradients are of the order of 1.
    check(call, at_least=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", EVERY)
def test_every_cell_is_the_reference(isa, cell, dtype):
    check(make_call(1, cell, (6, 4, 3, 9), dtype=dtype, lengths=[6, 0, 3, 5]))
    check(make_call(2, cell, (6, 4, 3, 9), 5, dtype=dtype, lengths=[6, 0, 3, 5], reverse=True))


# Across the engine's inner boundaries: several chunks of time, more than 60 rows, several sums of 256 steps, and
# widths that are no multiple of a vector.
LARGE = [(100, 5, 11, 37), (9, 70, 19, 61), (300, None, 5, 23), (20, 33, 70, 97)]


@pytest.mark.parametrize("sizes", LARGE, ids=str)
@pytest.mark.parametrize(("cell", "output_size"), [("gers_1999", None), ("peephole_lstm", 29), ("CIFG", None)])
def test_large_calls_are_the_reference(isa, cell, output_size, sizes):
    for dtype in DTYPES:
        call = make_call(3, cell, sizes, output_size, dtype, batch_first=dtype is np.float32)
        check(call)
        if sizes[1] is not None:
            call.how["lengths"] = make_lengths(np.random.default_rng(4), *sizes[:2])
            check(call)


def test_one_wrong_element_of_any_result_is_seen():
    call = make_call(cell="peephole_lstm", output_size=4)
    actual, expected = call.run(), call.run(reference)
    assert_results_close(actual, expected, call.weights)
    assert len(actual) == 13, "five results, and the gradients of x, five weights and the state"
    for name, array in actual.items():
        wrong = array.copy()
        wrong.flat[array.size // 2] += 1e-10 * np.abs(array).max()
        with pytest.raises(AssertionError, match=f"{name}: error"):
            assert_results_close(actual | {name: wrong}, expected, call.weights)


# ----------------------------- what may be left out, and what is empty


@pytest.mark.parametrize("output_size", [None, 4])
@pytest.mark.parametrize("sizes", [(0, 3, 2, 7), (5, 0, 2, 7), (0, 0, 2, 7), (0, None, 2, 7), (5, 3, 0, 7)], ids=str)
@pytest.mark.parametrize("cell", PRESETS)
def test_empty_axes(isa, cell, sizes, output_size):
    call = make_call(0, cell, sizes, output_size)
    check(call)
    out = call.run()
    if 0 in sizes[:2]:
        for name, array in zip(("final.h", "final.c"), call.state, strict=True):
            assert_same_bits(out[name], array, name)
            assert not np.shares_memory(out[name], array), f"{name} is a new array"
        for name, array in zip(("d_state.h", "d_state.c"), call.dstate, strict=True):
            assert_same_bits(out[name], array, name)
        for name, array in out.items():
            if name.startswith("d_weights."):
                assert_same_bits(array, np.zeros_like(array), name)


def test_what_is_left_out_is_zeros():
    call = make_call(cell="peephole_lstm", output_size=4)
    zeros = State(*map(np.zeros_like, call.state))
    for name, meant in (("state", zeros), ("dstate", zeros), ("dy", np.zeros_like(call.dy))):
        given, spelt = (make_call(cell="peephole_lstm", output_size=4) for _ in range(2))
        setattr(given, name, None)
        setattr(spelt, name, meant)
        assert_results_same(given.run(), spelt.run(), f"{name}=None")
        with pytest.raises(AssertionError):
            assert_results_same(given.run(), call.run())
    # A bias may be of zeros: its gradient is there, and the rest is the same.
    given, spelt = (make_call() for _ in range(2))
    given.weights = given.weights._replace(b=None)
    spelt.weights = spelt.weights._replace(b=np.zeros_like(spelt.weights.b))
    spelt = spelt.run()
    assert spelt.pop("d_weights.b").any()
    assert_results_same(given.run(), spelt, "b=None")


def test_need_dx_leaves_out_dx_alone():
    call = make_call(lengths=[5, 0, 2])
    whole = call.run()
    call.need_dx = False
    out = call.run()
    assert whole.pop("d_x") is not None
    assert_results_same(out, whole)


def test_past_the_end_is_zero_and_is_not_read(isa):
    lengths = np.array([5, 0, 2])
    past = np.arange(5)[:, None] >= lengths
    for reverse in (False, True):
        call = make_call(cell="peephole_lstm", lengths=lengths, reverse=reverse)
        clean = call.run()
        for name in ("y", "d_x", "tape.gates", "tape.c"):
            assert_same_bits(clean[name][past], np.zeros_like(clean[name][past]), name)
            assert clean[name][~past].all(), name
        call.x[past], call.dy[past] = np.nan, np.inf
        assert_results_same(call.run(), clean)


@pytest.mark.parametrize(("dtype", "least"), [(np.float32, 2.0**-56), (np.float64, 2.0**-480)])
def test_what_idles_becomes_zero_and_never_subnormal(isa, dtype, least):
    """Weights of zeros: f and i are 1/2 and g is 0, so that c and its gradient halve with every step."""
    weights = Weights(np.zeros((4 * 19, 1), dtype), np.zeros((4 * 19, 19), dtype))
    start = np.full(19, -4 * least, dtype)
    zeros = np.zeros(19, dtype)
    for reverse in (False, True):
        _, final, tape = lstm_rs.forward_train(np.zeros((5, 1), dtype), weights, (zeros, start), reverse=reverse)
        halves = np.array([-2 * least, -least, 0, 0, 0], dtype)
        for unit in range(19):
            assert_same_bits(tape.c[:: -1 if reverse else 1, 0, unit], halves)
        assert_same_bits(final.c, zeros)
        for steps, carried in ((2, -least), (3, 0.0)):
            _, _, tape = lstm_rs.forward_train(np.zeros((steps, 1), dtype), weights, reverse=reverse)
            d_state = lstm_rs.backward(tape, dstate=(zeros, start)).state
            assert_same_bits(d_state.c, np.full(19, carried, dtype))
    # And the gradient of h: d_z_g is d_c * i = 1/2, times a weight on either side of what makes `least`.
    for w, carried in ((2 * least, least), (least, 0.0)):
        weights.w_hh[2 * 19] = w
        tape = lstm_rs.forward_train(np.zeros((1, 1), dtype), weights)[2]
        first = np.eye(19, dtype=dtype)[0]
        assert_same_bits(lstm_rs.backward(tape, dstate=(zeros, first)).state.h, np.full(19, carried, dtype))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, ">i2", np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_lengths_are_integers_of_any_width(dtype):
    whole = make_call(lengths=[5, 0, 2]).run()
    for lengths in (np.array([5, 0, 2], dtype), tuple(np.array([5, 0, 2], dtype))):
        assert_results_same(make_call(lengths=lengths).run(), whole)
    one = make_call(sizes=(5, None, 2, 7), lengths=3).run()
    for length in (np.array(3, dtype), np.array(3, dtype)[()]):
        assert_results_same(make_call(sizes=(5, None, 2, 7), lengths=length).run(), one)


def test_outputs_are_new_arrays_in_c_order():
    for how in ({}, {"batch_first": True}):
        call = make_call(**how)
        for name, array in call.run().items():
            assert array.flags.c_contiguous and array.flags.owndata and array.flags.aligned, name
            assert array.flags.writeable != name.startswith("tape."), name


# ----------------------------- the tape


def make_tape(**how):
    call = make_call(cell="peephole_lstm", output_size=4, **how)
    y, _, tape = lstm_rs.forward_train(call.x, call.weights, call.state, **call.how)
    return call, y, tape


def test_a_tape_is_what_the_call_was():
    call, y, tape = make_tape(lengths=[5, 0, 2], reverse=True)
    assert tape.x is call.x and tape.y is y and tape.cell == call.how["cell"]
    assert all(a is b for a, b in zip(tape.weights, call.weights, strict=True))
    assert all(a is b for a, b in zip(tape.state, call.state, strict=True))
    assert tape.lengths.tolist() == [5, 0, 2] and tape.reverse is True and tape.batch_first is False
    assert repr(tape) == "<Tape of T=5, N=3, G=4, H=7, float64>"
    plain = lstm_rs.forward_train(call.x, tuple(call.weights), tuple(call.state), cell=call.how["cell"])[2]
    assert isinstance(plain.weights, Weights) and isinstance(plain.state, State) and plain.lengths is None


def test_a_tape_does_not_see_later_changes_of_lengths():
    lengths = np.array([5, 0, 2])
    call, _, tape = make_tape(lengths=lengths)
    before = gradients(lstm_rs.backward(tape, call.dy))
    lengths[:] = 1
    assert_results_same(gradients(lstm_rs.backward(tape, call.dy)), before)


def test_a_tape_is_read_only():
    _, _, tape = make_tape()
    for array in (tape.gates, tape.c):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0.0
    with pytest.raises(AttributeError, match=r"Tape\.gates is read-only"):
        tape.gates = tape.gates.copy()
    with pytest.raises(AttributeError, match=r"Tape\.x is read-only"):
        del tape.x
    with pytest.raises(AttributeError, match="read-only"):
        tape.note = "a tape has no other attributes"


@pytest.mark.parametrize("how", [{}, {"lengths": [5, 0, 2], "reverse": True}, {"batch_first": True}], ids=str)
def test_a_tape_can_be_used_again_copied_and_pickled(how):
    call, _, tape = make_tape(**how)
    recorded = tape.gates.copy(), tape.c.copy()
    first = gradients(lstm_rs.backward(tape, call.dy, call.dstate))
    copies = {"again": tape, "copy": copy.copy(tape), "deepcopy": copy.deepcopy(tape)}
    copies |= {f"pickle {k}": pickle.loads(pickle.dumps(tape, k)) for k in range(2, pickle.HIGHEST_PROTOCOL + 1)}
    for label, other in copies.items():
        assert_results_same(gradients(lstm_rs.backward(other, call.dy, call.dstate)), first, label)
        assert not other.gates.flags.writeable and not other.c.flags.writeable, label
    assert_same_bits(tape.gates, recorded[0])
    assert_same_bits(tape.c, recorded[1])
    # A deep copy is on its own: what is written to the original afterwards does not reach it.
    call.x[:] = 0.0
    assert_results_same(gradients(lstm_rs.backward(copies["deepcopy"], call.dy, call.dstate)), first)
    with pytest.raises(AssertionError):
        assert_results_same(gradients(lstm_rs.backward(tape, call.dy, call.dstate)), first)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_tuples_and_cells_pickle(protocol):
    call = make_call(cell="peephole_lstm", output_size=4)
    _, final, tape = lstm_rs.forward_train(call.x, call.weights, call.state, **call.how)
    for thing in (call.weights, final, lstm_rs.backward(tape, call.dy)):
        other = pickle.loads(pickle.dumps(thing, protocol))
        assert type(other) is type(thing)
    assert pickle.loads(pickle.dumps(call.how["cell"], protocol)) == call.how["cell"]


def test_a_tape_from_its_parts_is_a_tape():
    """Whoever stores a tape in another way than by pickle can put it together again."""
    call, _, tape = make_tape()
    names = [name for name in Tape.__slots__ if not name.startswith("_")]
    parts = {name: getattr(tape, name) for name in names}
    other = Tape(**parts)
    expected = gradients(lstm_rs.backward(tape, call.dy))
    assert_results_same(gradients(lstm_rs.backward(other, call.dy)), expected)
    lists = parts | {"lengths": [5, 5, 5], "x": call.x.tolist(), "weights": tuple(call.weights)}
    assert_results_same(gradients(lstm_rs.backward(Tape(**lists), call.dy)), expected)
