"""Whatever way an array lies in memory: the same bits as from a clean copy, and nothing is written to it."""

import lstm_rs
import numpy as np
import pytest
from calls import DTYPES, assert_results_same, make_call
from lstm_rs import State, Weights


def padded(array):
    """A window into a larger array: every axis but the last has strides of its own."""
    big = np.full([n + 3 for n in array.shape], np.nan, array.dtype)
    window = big[tuple(slice(1, n + 1) for n in array.shape)]
    window[...] = array
    return window


def strided(array):
    """Every other element along every axis, with NaN between them."""
    big = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = big[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_(array):
    """Negative strides along every axis."""
    back = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[back])[back]


def reversed_rows(array):
    """Negative strides, but for the last axis."""
    back = (slice(None, None, -1),) * (array.ndim - 1)
    return np.ascontiguousarray(array[back])[back]


def misaligned(array):
    """One byte off."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def byte_swapped(array):
    return array.astype(array.dtype.newbyteorder())


def read_only(array):
    view = array.copy()
    view.flags.writeable = False
    return view


def of_records(array):
    """A field of a structured array: strides that are no multiple of the element's size."""
    records = np.zeros(array.shape, [("tag", np.uint8), ("value", array.dtype), ("more", np.uint16)])
    records["value"] = array
    return records["value"]


class Subclass(np.ndarray):
    """An array of another class."""


LAYOUTS = {
    "padded": padded,
    "strided": strided,
    "reversed": reversed_,
    "reversed rows": reversed_rows,
    "fortran": np.asfortranarray,
    "misaligned": misaligned,
    "byte-swapped": byte_swapped,
    "read-only": read_only,
    "field of records": of_records,
    "subclass": lambda array: array.view(Subclass),
}
# Where each argument is in a call.
ARGUMENTS = ["x", *(f"weights.{name}" for name in Weights._fields), "state.h", "state.c", "dy", "dstate.h", "dstate.c"]


def get(call, argument):
    name, _, part = argument.partition(".")
    return getattr(getattr(call, name), part) if part else getattr(call, name)


def put(call, argument, array):
    name, _, part = argument.partition(".")
    setattr(call, name, getattr(call, name)._replace(**{part: array}) if part else array)


def memory_of(array):
    """The array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def drawn(dtype=np.float64, **how):
    # Several chunks of time are not needed here, but rows of more than one vector, and a remainder, are.
    return make_call(5, "peephole_lstm", (4, 3, 18, 19), 5, dtype, **how)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_any_layout_gives_the_bits_of_a_clean_copy(argument, layout):
    for dtype in DTYPES:
        for how in ({}, {"batch_first": True, "lengths": [4, 0, 2]}):
            call = drawn(dtype, **how)
            expected = call.run()
            clean = get(call, argument)
            array = LAYOUTS[layout](clean)
            assert array.shape == clean.shape and np.array_equal(array, clean), "the layout itself is wrong"
            put(call, argument, array)
            memory = memory_of(array)
            before = memory.tobytes()
            assert_results_same(call.run(), expected, f"{argument} {layout}")
            assert memory.tobytes() == before, "something was written between its elements"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_at_once(layout):
    for sizes in ((4, 3, 18, 19), (4, None, 18, 19), (1, 1, 1, 1)):
        call = make_call(6, "peephole_lstm", sizes, 1 if sizes[3] == 1 else 5, np.float32)
        expected = call.run()
        for argument in ARGUMENTS:
            put(call, argument, LAYOUTS[layout](get(call, argument)))
        assert_results_same(call.run(), expected, layout)


def test_a_broadcast_array_is_an_array():
    call = drawn()
    row = call.x[0, 0]
    for array in (np.broadcast_to(row, call.x.shape), np.broadcast_to(call.x[:, :1], call.x.shape)):
        call.x = array
        out = call.run()
        call.x = array.copy()
        assert_results_same(out, call.run())
    call.dy = np.broadcast_to(np.float64(0.5), call.dy.shape)
    out = call.run()
    call.dy = call.dy.copy()
    assert_results_same(out, call.run())


def test_lengths_may_lie_anyhow():
    expected = drawn(lengths=[4, 0, 2]).run()
    for lengths in (
        np.array([4, 9, 0, 9, 2])[::2],
        np.array([2, 0, 4])[::-1],
        np.array([4, 0, 2], ">i8"),
        misaligned(np.array([4, 0, 2])),
        read_only(np.array([4, 0, 2])),
        (4, 0, 2),
    ):
        assert_results_same(drawn(lengths=lengths).run(), expected)


def test_lists_are_taken():
    """Python's floats are float64."""
    call = drawn()
    expected = call.run()
    for argument in ARGUMENTS:
        put(call, argument, get(call, argument).tolist())
    assert_results_same(call.run(), expected)


def test_tuples_are_taken_for_weights_and_states():
    call = drawn()
    expected = call.run()
    for kind in (tuple, list):
        call.weights = kind(call.weights)
        assert_results_same(call.run(), expected)
    call.state, call.dstate = tuple(call.state), tuple(call.dstate)
    assert_results_same(call.run(), expected)
    # What stands at the end and is None may be left out.
    call = make_call(1)
    expected = call.run()
    call.weights = tuple(call.weights)[:3]
    assert_results_same(call.run(), expected)
    call.weights = (*call.weights[:2], None)
    expected = call.run()
    call.weights = call.weights[:2]
    assert_results_same(call.run(), expected)


@pytest.mark.parametrize("how", [{}, {"batch_first": True}, {"lengths": [4, 0, 2], "reverse": True}], ids=str)
def test_no_input_is_written(how):
    call = drawn(**how)
    lengths = how.get("lengths") and np.array(how["lengths"])
    if lengths is not None:
        call.how["lengths"] = lengths
    before = {argument: get(call, argument).copy() for argument in ARGUMENTS}
    y, final, tape = lstm_rs.forward_train(call.x, call.weights, call.state, **call.how)
    recorded = [array.copy() for array in (y, *final, tape.gates, tape.c)]
    lstm_rs.forward(call.x, call.weights, call.state, **call.how)
    lstm_rs.backward(tape, call.dy, call.dstate)
    for argument, array in before.items():
        assert get(call, argument).tobytes() == array.tobytes(), argument
    for array, copy in zip((y, *final, tape.gates, tape.c), recorded, strict=True):
        assert array.tobytes() == copy.tobytes()
    assert lengths is None or lengths.tolist() == [4, 0, 2]


def test_the_same_array_may_be_given_twice():
    """As in a cell that starts from its own output: nothing that is read is written."""
    call = make_call(2, sizes=(4, 3, 7, 7))
    call.state = State(call.x[0], call.x[0])
    call.dy, call.dstate = call.x, State(call.x[1], call.x[1])
    out = call.run()
    call.state, call.dy = State(call.x[0].copy(), call.x[0].copy()), call.x.copy()
    call.dstate = State(call.x[1].copy(), call.x[1].copy())
    assert_results_same(out, call.run())
